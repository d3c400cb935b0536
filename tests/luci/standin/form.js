// LuCI's form: maps, sections and options over the configuration.
'use strict';

const forms = [];

const Map_ = Base.extend({
    __init__(config, title, description) {
        Object.assign(this, { config, title, description, children: [] });
        forms.push(this);
    },
    section(Section, ...args) {
        const section = new Section(this, ...args);
        this.children.push(section);
        return section;
    },
    async load() {
        this.data = await L.require('uci');
        await this.data.load(this.config);
        for (const section of this.children) await section.load();
    },
    async render() {
        await this.load();
        return this.renderContents();
    },
    async renderContents() {
        this.root = this.root || E('div', { class: 'cbi-map', id: 'cbi-' + this.config });
        instances.set(this.root, this);
        const nodes = [];
        for (const section of this.children) nodes.push(await section.render());
        dom.content(this.root, []);
        if (this.title) this.root.append(E('h2', {}, this.title));
        if (this.description) this.root.append(E('div', { class: 'cbi-map-descr' }, this.description));
        this.root.append(...nodes);
        return this.root;
    },
    async save(callback, silent) {
        try {
            for (const section of this.children) await section.parse();
            await this.data.save();
            await this.load();
        } catch (error) {
            this.refused = String(error);
            if (!silent) throw error;
        } finally {
            if (!this.refused) await this.renderContents();
        }
    },
    reset() {
        return this.renderContents();
    },
});

const Section = Base.extend({
    __init__(map, type, title, description) {
        Object.assign(this, { map, sectiontype: type, title, description, children: [] });
    },
    tab(name, title) {
        this.tabs = this.tabs || [];
        this.tabs.push({ name, title });
    },
    option(Option, name, title, description) {
        const option = new Option(this.map, this, name, title, description);
        this.children.push(option);
        return option;
    },
    taboption(tab, ...args) {
        if (!this.tabs.some((one) => one.name === tab)) throw new Error(`no tab ${tab}`);
        return Object.assign(this.option(...args), { tab });
    },
    cfgsections() {
        return this.map.data.sections(this.map.config, this.sectiontype).map((section) => section['.name']);
    },
    async load() {
        for (const id of this.cfgsections())
            for (const option of this.children) option.cfgvalue(id, await option.load(id));
    },
    async parse() {
        for (const id of this.cfgsections()) for (const option of this.children) await option.parse(id);
    },
    async renderOptions(id) {
        const tabs = this.tabs || [{}];
        const node = E('div', { class: 'cbi-section-node', 'data-section-id': id });
        for (const tab of tabs) {
            const pane = E('div', { 'data-tab': tab.name, 'data-tab-title': tab.title });
            for (const option of this.children) if (option.tab === tab.name) pane.append(await option.render(id));
            node.append(pane);
        }
        if (this.tabs) {
            const show = (name) => {
                for (const pane of node.querySelectorAll('[data-tab]')) pane.hidden = pane.dataset.tab !== name;
                for (const item of node.querySelectorAll('.cbi-tabmenu li'))
                    item.className = item.dataset.for === name ? 'cbi-tab' : 'cbi-tab-disabled';
            };
            node.prepend(E('ul', { class: 'cbi-tabmenu' }, this.tabs.map(({ name, title }) =>
                E('li', { 'data-for': name, click: () => show(name) }, [title]))));
            show(this.tabs[0].name);
        }
        return node;
    },
    button(title, kind, click) {
        return E('button', { class: 'cbi-button ' + kind, click }, [title]);
    },
    frame(nodes) {
        const node = E('div', { class: 'cbi-section', id: `cbi-${this.map.config}-${this.sectiontype}` });
        if (this.title) node.append(E('h3', {}, this.title));
        if (this.description) node.append(E('div', { class: 'cbi-section-descr' }, this.description));
        node.append(...nodes);
        if (this.addremove)
            node.append(E('div', { class: 'cbi-section-create' }, [
                this.button(this.addbtntitle || 'Add', 'cbi-button-add', () => this.handleAdd()),
            ]));
        return node;
    },
    handleAdd() {
        this.map.data.add(this.map.config, this.sectiontype);
        return this.map.save(null, true);
    },
    handleRemove(id) {
        this.map.data.remove(this.map.config, id);
        return this.map.save(null, true);
    },
});

const TypedSection = Section.extend({
    async render() {
        const nodes = [];
        for (const id of this.cfgsections()) {
            if (this.addremove)
                nodes.push(E('div', { class: 'cbi-section-remove right' }, [this.button('Delete', '', () => this.handleRemove(id))]));
            nodes.push(await this.renderOptions(id));
        }
        return this.frame(nodes.length ? nodes : [E('em', 'This section contains no values yet')]);
    },
});

const NamedSection = Section.extend({
    __init__(map, id, type, title, description) {
        Section.prototype.__init__.call(this, map, type, title, description);
        this.id = id;
    },
    cfgsections() {
        return this.map.data.get(this.map.config, this.id) ? [this.id] : [];
    },
    async render() {
        const nodes = [];
        for (const id of this.cfgsections()) nodes.push(await this.renderOptions(id));
        return this.frame(nodes);
    },
});

// Rows of text; everything else is edited in a dialogue.
const GridSection = Section.extend({
    async render() {
        const titles = this.children.map((option) => option.title);
        const rows = [];
        for (const id of this.cfgsections()) {
            const cells = [];
            for (const option of this.children)
                cells.push(E('td', { class: 'td cbi-value-field', 'data-title': option.title },
                    option.editable ? await option.renderWidget(id) : option.textvalue(id) ?? E('em', {}, ['none'])));
            cells.push(E('td', { class: 'td cbi-section-actions' }, [
                this.button('Edit', 'cbi-button-edit', () => this.edit(id)), ' ',
                this.button('Delete', 'cbi-button-remove', () => this.handleRemove(id)),
            ]));
            rows.push(E('tr', { class: 'tr cbi-section-table-row', 'data-sid': id }, cells));
        }
        if (!rows.length)
            rows.push(E('tr', { class: 'tr placeholder' }, [E('td', { class: 'td' }, [E('em', 'This section contains no values yet')])]));
        const head = E('tr', { class: 'tr table-titles' }, titles.map((title) => E('th', { class: 'th' }, title)));
        return this.frame([E('table', { class: 'table cbi-section-table' }, [head, ...rows])]);
    },
    async parse() {
        for (const id of this.cfgsections())
            for (const option of this.children) if (option.editable) await option.parse(id);
    },
    async handleAdd() {
        const id = this.map.data.add(this.map.config, this.sectiontype);
        return this.edit(id, true);
    },
    async edit(id, added) {
        const map = new Map_(this.map.config);
        const section = map.section(NamedSection, id, this.sectiontype);
        for (const option of this.children) {
            const copy = section.option(option.constructor, option.option, option.title, option.description);
            for (const [name, value] of Object.entries(option))
                if (!['map', 'section', 'config'].includes(name)) copy[name] = value;
        }
        const nodes = await map.render();
        const close = () => this.modal.remove();
        this.modal = E('div', { class: 'modal cbi-modal' }, [E('h4', {}, [this.modaltitle || '']), nodes, E('div', { class: 'right' }, [
            this.button('Dismiss', '', () => {
                if (added) this.map.data.remove(this.map.config, id);
                close();
            }), ' ',
            this.button('Save', 'cbi-button-positive', async () => {
                await map.save(null, true);
                if (map.refused) return;
                close();
                await this.map.load();
                await this.map.reset();
            }),
        ])]);
        document.body.append(this.modal);
    },
});

const AbstractValue = Base.extend({
    __init__(map, section, option, title, description) {
        Object.assign(this, { map, section, option, title, description, rmempty: true, optional: false, default: null, values: {} });
    },
    cbid(id) {
        return `cbid.${this.map.config}.${id}.${this.option}`;
    },
    load(id) {
        return this.map.data.get(this.map.config, id, this.option);
    },
    cfgvalue(id, ...set) {
        if (set.length) this.values[id] = set[0];
        return this.values[id] ?? null;
    },
    node(id) {
        return this.map.root && this.map.root.querySelector(`[id="${this.cbid(id)}"]`);
    },
    formvalue(id) {
        const node = this.node(id);
        return node ? dom.callClassMethod(node, 'getValue') : null;
    },
    textvalue(id) {
        const value = this.cfgvalue(id) ?? this.default;
        return value === null ? null : '%h'.format(Array.isArray(value) ? value.join(' ') : value);
    },
    validate: () => true,
    settings(id, more) {
        return {
            id: this.cbid(id), optional: this.optional || this.rmempty, datatype: this.datatype, placeholder: this.placeholder,
            validate: (text) => this.validate(id, text), ...more,
        };
    },
    async render(id) {
        const node = E('div', { class: 'cbi-value', 'data-name': this.option }, [
            E('label', { class: 'cbi-value-title' }, this.title), E('div', { class: 'cbi-value-field' }, [await this.renderWidget(id)]),
        ]);
        if (this.description) node.lastChild.append(E('div', { class: 'cbi-value-description' }, this.description));
        return node;
    },
    isValid(id) {
        const node = this.node(id);
        return !node || (dom.callClassMethod(node, 'triggerValidation'), dom.callClassMethod(node, 'isValid'));
    },
    async parse(id) {
        if (!this.isValid(id)) throw new Error(`Option "${this.option}" contains an invalid input value`);
        const value = this.formvalue(id);
        const empty = value === null || value === '' || (Array.isArray(value) && value.length === 0);
        if (!empty) {
            if (JSON.stringify(value) !== JSON.stringify(this.cfgvalue(id))) await this.write(id, value);
        } else if (this.rmempty || this.optional) {
            await this.remove(id);
        }
    },
    write(id, value) {
        return this.map.data.set(this.map.config, id, this.option, value);
    },
    remove(id) {
        return this.map.data.unset(this.map.config, id, this.option);
    },
});

const Value = AbstractValue.extend({
    value(key, text) {
        this.choices = this.choices || {};
        this.choices[key] = text ?? key;
    },
    renderWidget(id) {
        return new Textfield(this.cfgvalue(id) ?? this.default, this.choices, this.settings(id)).render();
    },
});
const DynamicListValue = Value.extend({
    renderWidget(id) {
        return new DynamicList(this.cfgvalue(id) ?? this.default, null, this.settings(id)).render();
    },
});
const ListValue = Value.extend({
    renderWidget(id) {
        return new Select(this.cfgvalue(id) ?? this.default, this.choices, this.settings(id)).render();
    },
});
const Flag = Value.extend({
    __init__(...args) {
        Value.prototype.__init__.apply(this, args);
        Object.assign(this, { enabled: '1', disabled: '0', default: '0' });
    },
    renderWidget(id) {
        const settings = this.settings(id, { value_enabled: this.enabled, value_disabled: this.disabled });
        return new Checkbox(this.cfgvalue(id) ?? this.default, null, settings).render();
    },
    async parse(id) {
        const value = this.formvalue(id);
        return value === this.default && this.rmempty ? this.remove(id) : this.write(id, value);
    },
});

modules.form = Base.extend({
    Map: Map_, NamedSection, TypedSection, GridSection, Value, ListValue, Flag, DynamicList: DynamicListValue,
});

modules['tools.widgets'] = Base.extend({
    ZoneSelect: ListValue.extend({
        async load(id) {
            this.zones = await (await L.require('firewall')).getZones();
            return this.super('load', [id]);
        },
        renderWidget(id) {
            const choices = Object.fromEntries(this.zones.map((zone) => [zone.getName(), zone.getName()]));
            return new Dropdown(L.toArray(this.cfgvalue(id) ?? this.default), choices, this.settings(id)).render();
        },
    }),
});
