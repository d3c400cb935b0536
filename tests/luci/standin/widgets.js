// Plain controls in place of LuCI's widgets, with their interface: getValue, isValid, triggerValidation.
'use strict';

class Widget {
    constructor(value, choices, options) {
        Object.assign(this, { value, choices, options });
    }
    // Validates now and whenever the control changes. Values are checked one by one if there are several in a list.
    mount(node, texts) {
        this.node = node;
        this.texts = texts;
        node.id = this.options.id;
        instances.set(node, this);
        for (const event of ['input', 'change', 'blur'])
            node.addEventListener(event, () => {
                this.triggerValidation();
                node.dispatchEvent(new CustomEvent('widget-change', { bubbles: true }));
            }, true);
        return node;
    }
    triggerValidation() {
        const { datatype, optional, validate } = this.options;
        this.error = this.texts().map((text) => complaint(datatype, optional, validate, text)).find(Boolean) || null;
        for (const input of [this.node, ...this.node.querySelectorAll('input,select')]) {
            input.classList.toggle('cbi-input-invalid', this.error !== null);
            if (this.error) input.setAttribute('data-tooltip', this.error);
            else input.removeAttribute('data-tooltip');
        }
        return this.error === null;
    }
    isValid() {
        return this.error === null || this.error === undefined;
    }
}

class Textfield extends Widget {
    render() {
        const { id, placeholder } = this.options;
        this.input = E('input', {
            type: 'text', class: 'cbi-input-text', placeholder, value: this.value ?? '', list: this.choices ? `list.${id}` : null,
        });
        const node = E('div', {}, [this.input]);
        if (this.choices)
            node.append(E('datalist', { id: `list.${id}` },
                Object.entries(this.choices).map(([key, text]) => E('option', { value: key }, [text]))));
        return this.mount(node, () => [this.input.value]);
    }
    getValue() {
        return this.input.value;
    }
    setValue(value) {
        this.input.value = value;
    }
}

class Select extends Widget {
    render() {
        this.select = E('select', { class: 'cbi-input-select' }, Object.entries(this.choices).map(([key, text]) =>
            E('option', { value: key, selected: key === this.value ? '' : null }, [text])));
        return this.mount(E('div', {}, [this.select]), () => [this.select.value]);
    }
    getValue() {
        return this.select.value;
    }
    setValue(value) {
        this.select.value = value;
    }
}

class Checkbox extends Widget {
    render() {
        this.box = E('input', { type: 'checkbox', checked: this.value === this.options.value_enabled ? '' : null });
        return this.mount(E('div', { class: 'cbi-checkbox' }, [this.box]), () => [this.getValue()]);
    }
    isChecked() {
        return this.box.checked;
    }
    getValue() {
        return this.options[this.box.checked ? 'value_enabled' : 'value_disabled'];
    }
    setValue(value) {
        this.box.checked = value === this.options.value_enabled;
    }
}

// A list of items with a field to add one. What is invalid is not added.
class DynamicList extends Widget {
    render() {
        this.items = L.toArray(this.value).slice();
        this.input = E('input', { type: 'text', class: 'cbi-input-text', placeholder: this.options.placeholder });
        this.shown = E('div');
        const node = E('div', { class: 'cbi-dynlist' }, [
            this.shown,
            E('div', { class: 'add-item' }, [this.input, E('button', { class: 'cbi-button', click: () => this.add() }, ['+'])]),
        ]);
        this.mount(node, () => [this.input.value]);
        this.list();
        return node;
    }
    list() {
        dom.content(this.shown, this.items.map((item, i) => E('div', { class: 'item' }, [
            item, ' ', E('button', { class: 'cbi-button', click: () => (this.items.splice(i, 1), this.list()) }, ['×']),
        ])));
    }
    add() {
        const text = this.input.value;
        if (text === '' || !this.triggerValidation()) return;
        this.items.push(text);
        this.input.value = '';
        this.list();
    }
    // An empty list is valid if it may be empty; the field below it always may.
    triggerValidation() {
        const optional = this.options.optional;
        this.options.optional = true;
        const valid = super.triggerValidation();
        this.options.optional = optional;
        if (!optional && this.items.length === 0) this.error = 'Expecting: non-empty value';
        return valid && !this.error;
    }
    // What stands in the field is as good as added.
    getValue() {
        const left = this.input.classList.contains('cbi-input-invalid') ? '' : this.input.value;
        return [...new Set(this.items.concat(left.trim() ? left : []))];
    }
}

// Several of some choices, in their order, and others that are typed in. Validated as one string, as LuCI's dropdown does.
class Dropdown extends Widget {
    render() {
        const chosen = L.toArray(this.value);
        const keys = [...new Set([...Object.keys(this.choices).sort(), ...chosen])];
        this.boxes = keys.map((key) => [key, E('input', { type: 'checkbox', checked: chosen.includes(key) ? '' : null })]);
        this.input = E('input', { type: 'text', class: 'cbi-input-text', placeholder: '-- custom --' });
        const node = E('div', { class: 'cbi-dropdown' },
            this.boxes.map(([key, box]) => E('label', { class: 'zonebadge' }, [box, ' ', key])).concat([this.input]));
        return this.mount(node, () => [this.getValue().join(' ')]);
    }
    getValue() {
        return this.boxes.filter(([, box]) => box.checked).map(([key]) => key).concat(L.toArray(this.input.value));
    }
}
