// LuCI's datatypes, those that the form uses, and the parsers of its module validation. A type is an expression such as
// or(port,portrange); a value is a string. ipaddr and cidr are left out on purpose: after them, LuCI hands validate() what
// they have looked at last, which of 10.0.0.0/8 is 8.
'use strict';

const whole = (text) => (/^-?\d+$/.test(text) ? +text : NaN);
const decimal = (text) => (/^-?\d+(\.\d+)?$/.test(text) ? +text : NaN);

modules.validation = Base.extend({
    parseIPv4(text) {
        const parts = /^(\d{1,3}\.){3}\d{1,3}$/.test(text) ? text.split('.').map(Number) : [];
        return parts.length && parts.every((part) => part <= 255) ? parts : null;
    },
    parseIPv6(text) {
        const [, before, last] = /^([0-9a-f:]+:)([0-9.]+\.[0-9.]+)$/i.exec(text) || [];
        if (before && !this.parseIPv4(last)) return null;
        const halves = (before ? before + '0:0' : text).split('::').map((half) => (half || '0').split(':'));
        const words = halves.flat();
        const fits = halves.length === 2 ? words.length <= 7 : halves.length === 1 && words.length === 8;
        return fits && words.every((word) => /^[0-9a-f]{1,4}$/i.test(word)) ? words.map((word) => parseInt(word, 16)) : null;
    },
});

const types = {
    string: () => true,
    uinteger: (text) => whole(text) >= 0,
    ufloat: (text) => decimal(text) >= 0,
    range: (text, least, most) => decimal(text) >= +least && decimal(text) <= +most,
    uciname: (text) => /^[a-zA-Z0-9_]+$/.test(text),
    port: (text) => whole(text) >= 0 && whole(text) <= 65535,
    portrange(text) {
        const [, first, last] = /^(\d+)-(\d+)$/.exec(text) || [];
        return first === undefined ? types.port(text) : +first <= +last && +last <= 65535;
    },
};

// Arguments at the top level of a list: or(a,b(c,d)) has a and b(c,d).
function split(list) {
    const parts = [''];
    let depth = 0;
    for (const c of list) {
        depth += (c === '(') - (c === ')');
        if (c === ',' && depth === 0) parts.push('');
        else parts[parts.length - 1] += c;
    }
    return parts.map((part) => part.trim()).filter((part) => part !== '');
}

function check(type, text) {
    const [, name, list] = /^([a-z0-9]+)(?:\((.*)\))?$/.exec(type) || [];
    if (name === undefined) throw new SyntaxError(`Unhandled token "${type}"`);
    const args = split(list || '');
    if (name === 'or') return args.some((one) => check(one, text));
    if (name === 'and') return args.every((one) => check(one, text));
    if (!types[name]) throw new SyntaxError(`Unhandled token "${name}"`);
    return types[name](text, ...args.map((one) => one.replace(/^(["'])(.*)\1$/, '$2')));
}

// null: valid. Otherwise what LuCI would show.
function complaint(type, optional, validate, text) {
    if (text === '') {
        if (!optional) return 'Expecting: non-empty value';
    } else if (!check(type || 'string', text)) {
        return `Expecting: ${type}`;
    }
    const verdict = validate ? validate(text) : true;
    return verdict === true ? null : verdict;
}
