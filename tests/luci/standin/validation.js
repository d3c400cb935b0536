// LuCI's datatypes, those that the form uses. A type is an expression such as or(port,portrange); a value is a string.
'use strict';

const whole = (text) => (/^-?\d+$/.test(text) ? +text : NaN);
const decimal = (text) => (/^-?\d+(\.\d+)?$/.test(text) ? +text : NaN);
const ipv4 = (text) => /^(\d{1,3}\.){3}\d{1,3}$/.test(text) && text.split('.').every((part) => +part <= 255);
const ipv6 = (text) => {
    if (!/^[0-9a-fA-F:.]+$/.test(text) || !text.includes(':')) return false;
    try {
        return Boolean(new URL(`http://[${text}]/`));
    } catch {
        return false;
    }
};
const prefixed = (text, address, longest) => {
    const [, host, prefix] = /^([^/]+)\/(\d{1,3})$/.exec(text) || [];
    return host !== undefined && address(host) && +prefix <= longest;
};

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
    ipaddr(text, nomask) {
        const mask = !nomask && /^([^/]+)\/(\d+\.\d+\.\d+\.\d+)$/.exec(text);
        return ipv4(text) || ipv6(text) || (!nomask && types.cidr(text)) || Boolean(mask && ipv4(mask[1]) && ipv4(mask[2]));
    },
    cidr: (text) => prefixed(text, ipv4, 32) || prefixed(text, ipv6, 128),
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
