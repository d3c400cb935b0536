// A stand-in for LuCI's loader and for those of its modules that the views of luci-app-pepsal use: as much of the
// documented API as they need, with LuCI's behaviour where it matters, such as E() taking a bare string for HTML, a
// module being instantiated once, and super() beginning above the class of an instance.
//
// This file: classes, formats, DOM, `require`, poll, rpc and view. The others add to `modules`.
'use strict';

const modules = {};
const problems = [];
window.addEventListener('error', (event) => problems.push(String(event.error || event.message)));
window.addEventListener('unhandledrejection', (event) => problems.push(String(event.reason)));

// --- classes

class Base {
    constructor(...args) {
        this.__init__(...args);
    }
    __init__() {}
    varargs(args, offset, ...before) {
        return before.concat(Array.from(args).slice(offset || 0));
    }
    super(name, ...args) {
        const list = args.length === 1 && typeof args[0] === 'object' ? Array.from(args[0]) : args;
        this.__above = this.__above || {};
        const at = this.__above[name] || Object.getPrototypeOf(this);
        let above = Object.getPrototypeOf(at);
        while (above && !Object.hasOwn(above, name)) above = Object.getPrototypeOf(above);
        const before = this.__above[name];
        this.__above[name] = above;
        try {
            return above[name].apply(this, list);
        } finally {
            this.__above[name] = before;
        }
    }
    static extend(members) {
        const child = class extends this {};
        for (const [name, value] of Object.entries(members))
            Object.defineProperty(child.prototype, name, { value, writable: true, configurable: true, enumerable: true });
        return child;
    }
}
modules.baseclass = Base;

// --- formats

String.prototype.format = function (...args) {
    let next = 0;
    const html = (text) => String(text).replace(/[&"'<>]/g, (c) => `&#${c.charCodeAt(0)};`);
    const duration = (seconds) => {
        const [d, h, m, s] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60, seconds % 60].map(Math.floor);
        return (d ? `${d}d ` : '') + `${h}h ${m}m ${s}s`;
    };
    return this.replace(/%(?:\.(\d+))?([%dfhst])/g, (all, precision, type) => {
        if (type === '%') return '%';
        if (next >= args.length) throw new Error(`"${this}" wants more arguments`);
        const value = args[next++];
        switch (type) {
            case 'd': return Math.floor(+value || 0).toFixed(0);
            case 'f': return precision ? (+value || 0).toFixed(+precision) : String(+value || 0);
            case 'h': return value == null ? '' : html(value);
            case 't': return duration(value || 0);
            default: return String(value);
        }
    });
};

// Every text is translated to itself; the test compares what was asked for with po/templates.
const asked = new Set();
window._ = (text) => (asked.add(text), text);

// --- DOM

const instances = new WeakMap();
const dom = {
    elem: (it) => it instanceof Node,
    append(node, children) {
        if (Array.isArray(children)) {
            for (const child of children) node.appendChild(dom.elem(child) ? child : document.createTextNode('' + child));
        } else if (dom.elem(children)) {
            node.appendChild(children);
        } else if (children !== null && children !== undefined) {
            node.innerHTML = '' + children;
        }
        return node.lastChild;
    },
    content(node, children) {
        while (node.firstChild) node.firstChild.remove();
        return dom.append(node, children);
    },
    bindClassInstance: (node, instance) => (instances.set(node, instance), instance),
    findClassInstance(node) {
        for (; node; node = node.parentNode) if (instances.has(node)) return instances.get(node);
        return null;
    },
    callClassMethod(node, method, ...args) {
        const instance = dom.findClassInstance(node);
        return instance && typeof instance[method] === 'function' ? instance[method](...args) : null;
    },
};
modules.dom = Base.extend(dom);

window.E = function (what, attributes, children) {
    if (!(attributes instanceof Object) || Array.isArray(attributes) || dom.elem(attributes)) {
        children = attributes;
        attributes = {};
    }
    let node = what;
    if (Array.isArray(what)) {
        node = document.createDocumentFragment();
        dom.append(node, what);
    } else if (!dom.elem(what)) {
        node = document.createElement(what);
    }
    for (const [name, value] of Object.entries(attributes)) {
        if (value === null || value === undefined) continue;
        if (typeof value === 'function') node.addEventListener(name, value);
        else node.setAttribute(name, typeof value === 'object' ? JSON.stringify(value) : value);
    }
    dom.append(node, children);
    return node;
};

// --- L

const loaded = {};
window.L = {
    env: { sessionid: '0'.repeat(32) },
    dom,
    bind: (f, self, ...args) => f.bind(self, ...args),
    resolveDefault: (value, preset) => Promise.resolve(value).catch(() => preset),
    isObject: (it) => it !== null && typeof it === 'object',
    url: (...parts) => '/cgi-bin/luci/' + parts.join('/'),
    resource: (...parts) => '/luci-static/resources/' + parts.join('/'),
    toArray(value) {
        if (value === null || value === undefined) return [];
        if (Array.isArray(value)) return value;
        if (typeof value === 'object') return [value];
        const text = String(value).trim();
        return text === '' ? [] : text.split(/\s+/);
    },

    require(name) {
        // These two are classes to extend, the rest is there once.
        if (name === 'baseclass' || name === 'view') return Promise.resolve(modules[name]);
        loaded[name] ??= modules[name] ? Promise.resolve(new modules[name]()) : this.load(name);
        return loaded[name];
    },

    // The strings at the head of a file: "use strict" and what it requires. Comments may stand between them.
    async load(name) {
        const reply = await fetch(this.resource(name.replace(/\./g, '/') + '.js'));
        if (!reply.ok) throw new Error(`no module ${name}`);
        const source = await reply.text();
        const names = ['window', 'document', 'L'];
        const wanted = [];
        let rest = source;
        for (;;) {
            rest = rest.replace(/^(\s|;|\/\/.*\n|\/\*[^]*?\*\/)+/, '');
            const string = /^(['"])(.*?)\1/.exec(rest);
            const required = string && /^require\s+(\S+)(?:\s+as\s+([A-Za-z_]\S*))?$/.exec(string[2]);
            if (required) {
                wanted.push(this.require(required[1]));
                names.push(required[2] || required[1].replace(/[^A-Za-z0-9_]/g, '_'));
            } else if (!string || string[2] !== 'use strict') {
                break;
            }
            rest = rest.slice(string[0].length);
        }
        const made = await Promise.all(wanted);
        const Module = new Function(...names, source + `\n//# sourceURL=${name}.js`)(window, document, L, ...made);
        if (!(Module.prototype instanceof Base)) throw new Error(`${name} does not return a class`);
        return new Module();
    },

    start(path) {
        document.querySelector('.tabs').append(...['status', 'settings'].map((page) =>
            E('li', { class: 'pepsal/' + page === path ? 'active' : '' }, [page[0].toUpperCase() + page.slice(1)])));
        return this.require('view.' + path.replace(/\//g, '.'));
    },
};

// --- poll

const polls = { queue: [], tick: 0 };
modules.poll = Base.extend({
    add(fn, interval) {
        polls.queue.push({ fn, interval, idle: true });
        if (!polls.timer) {
            polls.timer = setInterval(this.step, 1000);
            this.step();
        }
    },
    step() {
        for (const entry of polls.queue) {
            if (polls.tick % entry.interval !== 0 || !entry.idle) continue;
            entry.idle = false;
            Promise.resolve(entry.fn()).finally(() => {
                entry.idle = true;
                polls.done = (polls.done || 0) + 1;
            });
        }
        polls.tick++;
    },
});

// --- rpc

let requests = 0;
modules.rpc = Base.extend({
    declare(options) {
        return async (...args) => {
            const params = {};
            (options.params || []).forEach((name, i) => (params[name] = args[i]));
            const reply = await fetch('/ubus', {
                method: 'POST',
                body: JSON.stringify({
                    jsonrpc: '2.0', id: ++requests, method: 'call',
                    params: [L.env.sessionid, options.object, options.method, params],
                }),
            });
            if (!reply.ok) throw new Error(`RPC call failed with HTTP error ${reply.status}`);
            const message = await reply.json();
            if (message.error) throw new Error(`RPC call failed with error ${message.error.code}: ${message.error.message}`);
            let result = message.result.length > 1 ? message.result[1] : message.result[0];
            for (const [key, preset] of Object.entries(options.expect || {})) {
                if (result !== null && result !== undefined && key !== '') result = result[key];
                if (Object.prototype.toString.call(result) !== Object.prototype.toString.call(preset)) result = preset;
            }
            return result;
        };
    },
});

// --- view

const savedBy = (method) => function () {
    return Promise.all([...document.querySelectorAll('.cbi-map')].map((map) => dom.callClassMethod(map, method)));
};
modules.view = Base.extend({
    __init__() {
        const place = document.getElementById('view');
        dom.content(place, [E('div', { class: 'spinning' }, ['Loading view…'])]);
        this.shown = Promise.resolve(this.load())
            .then((found) => this.render(found))
            .then((nodes) => {
                dom.content(place, nodes);
                dom.append(place, this.addFooter());
                window.settled = true;
            })
            .catch((error) => {
                problems.push(String((error && error.stack) || error));
                window.settled = true;
            });
    },
    load() {},
    render() {},
    handleSaveApply: savedBy('save'),
    handleSave: savedBy('save'),
    handleReset: savedBy('reset'),
    addFooter() {
        const buttons = [];
        const add = (handler, title, kind) =>
            handler && buttons.push(E('button', { class: 'cbi-button ' + kind, click: () => handler.call(this) }, [title]), ' ');
        if (document.querySelector('.cbi-map')) {
            add(this.handleSaveApply, 'Save & Apply', 'cbi-button-apply');
            add(this.handleSave, 'Save', 'cbi-button-save');
            add(this.handleReset, 'Reset', 'cbi-button-reset');
        }
        return buttons.length ? E('div', { class: 'cbi-page-actions' }, buttons) : E([]);
    },
});
