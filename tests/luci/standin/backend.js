// What a router has: its configuration (the server parses the UCI files and takes back what is saved), its interfaces
// and its zones.
'use strict';

const config = {};
modules.uci = Base.extend({
    async load(packages) {
        for (const name of L.toArray(packages)) {
            if (config[name]) continue;
            const reply = await fetch('/uci/' + name);
            if (!reply.ok) throw new Error(`cannot load ${name}`);
            config[name] = await reply.json();
        }
    },
    sections: (name, type) => (config[name] || []).filter((section) => !type || section['.type'] === type),
    get(name, id, option) {
        const section = (config[name] || []).find((one) => one['.name'] === id);
        if (!section || option === undefined) return section || null;
        const value = section[option];
        return value === undefined ? null : value;
    },
    set(name, id, option, value) {
        const section = this.get(name, id);
        if (!section) throw new Error(`no section ${name}.${id}`);
        if (value === null || value === undefined || value === '') delete section[option];
        else section[option] = Array.isArray(value) ? value.map(String) : String(value);
    },
    unset(name, id, option) {
        this.set(name, id, option, null);
    },
    add(name, type, id) {
        const section = { '.name': id || `new${Math.random().toString(16).slice(2)}`, '.type': type, '.anonymous': !id };
        config[name].push(section);
        return section['.name'];
    },
    remove(name, id) {
        config[name] = config[name].filter((section) => section['.name'] !== id);
    },
    async save() {
        for (const name of Object.keys(config))
            await fetch('/uci/' + name, { method: 'POST', body: JSON.stringify(config[name]) });
    },
});

const named = (name, networks) => ({ getName: () => name, getNetworks: () => networks || [], isUp: () => true });
modules.network = Base.extend({
    getNetworks: async () => ['guest', 'lan', 'loopback', 'wan', 'wan6', 'wwan'].map((name) => named(name)),
});
modules.firewall = Base.extend({
    getZones: async () => [named('lan', ['lan']), named('wan', ['wan', 'wan6', 'wwan']), named('guest', ['guest'])],
});
