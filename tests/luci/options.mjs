// The same options, with the same limits, in three places: the form, the init script's *_OPTIONS, and the UCI file as
// installed, where those with a default are comments.
import { readFileSync } from 'node:fs';
import { expect, same } from './check.mjs';
import { parseUci } from './router.mjs';

const files = new URL('../../openwrt/pepsal/files/', import.meta.url);
export const installed = readFileSync(new URL('pepsal.config', files), 'utf8');

// { 'main.threads': 'and(uinteger(10),range(1,64),string)', … }; the section main is named, the others are types.
export function initOptions() {
    const script = readFileSync(new URL('pepsal.init', files), 'utf8');
    const found = {};
    for (const [, section, list] of script.matchAll(/^([A-Z]+)_OPTIONS='\n([^']*)'/gm))
        for (const [, name, type] of list.matchAll(/^\s*(\w+):(.*)$/gm)) found[`${section.toLowerCase()}.${name}`] = type;
    return found;
}

export function fileOptions() {
    const uncommented = installed.replace(/^\s*#(config|option|list|\t(?:option|list))/gm, '$1');
    const found = {};
    for (const section of parseUci(uncommented))
        for (const name of Object.keys(section))
            if (!name.startsWith('.')) found[`${section['.type'] === 'pepsal' ? 'main' : section['.type']}.${name}`] = true;
    return found;
}

// In the page: what the form is made of.
export const FORM = `Object.fromEntries(forms[0].children.flatMap((section) => section.children.map((option) =>
    [(section.sectiontype === 'pepsal' ? section.id : section.sectiontype) + '.' + option.option, {
        kind: Object.keys(modules.form.prototype).find((name) => option.constructor === modules.form.prototype[name]) || 'ZoneSelect',
        datatype: option.datatype || null, choices: option.choices ? Object.keys(option.choices) : null,
        preset: option.default, multiple: Boolean(option.multiple),
    }])))`;

// What a type of validate_data asks of the form's option.
export function comparable(name, type, option) {
    const [, least, most] = /range\((\d+),(\d+)\)/.exec(type) || [];
    const [, preset] = /^bool:(\d)$/.exec(type) || [];
    if (preset !== undefined) same([option.kind, option.preset], ['Flag', preset]);
    else if (/^or\("/.test(type)) {
        same(option.kind, 'ListValue');
        same(option.choices, [...type.matchAll(/"(\w+)"/g)].map(([, choice]) => choice));
    } else if (least !== undefined) same(option.datatype, `and(uinteger,range(${least},${most}))`);
    else if (/ufloat/.test(type)) expect(/^and\(ufloat,range\(/.test(option.datatype), `${name}: ${option.datatype}`);
    else if (type === 'uciname') same(option.datatype, 'uciname');
    else if (type === 'string') same([option.kind, option.datatype], ['Value', null]);
    else if (type === 'list(hostname)') same([option.kind, option.multiple], ['ZoneSelect', true]);
    else if (/^list\(cidr\)/.test(type)) same([option.kind, option.datatype], ['DynamicList', null]);
    else if (/^list\(.*portrange/.test(type)) same([option.kind, option.datatype], ['DynamicList', 'or(port,portrange)']);
    else throw new Error(`${name}: no rule here for the type ${type}`);
}
