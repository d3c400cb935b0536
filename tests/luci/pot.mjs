// The template of translations, made of the views' _('…') and the titles of the menu, as LuCI's own scanner does; with
// files but without line numbers, which would change with every line of a view.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export function template(app, scripts, jsons) {
    const found = new Map();
    const note = (text, file) => {
        if (!found.has(text)) found.set(text, new Set());
        found.get(text).add(`applications/luci-app-pepsal/${file}`);
    };
    for (const file of scripts) {
        readFileSync(join(app, file), 'utf8').split('\n').forEach((line, i) => {
            if (/^\s*\/\//.test(line)) return;
            for (const [, text] of line.matchAll(/\b_\('((?:[^'\\]|\\.)*)'\)/g)) note(text.replace(/\\(.)/g, '$1'), file);
            const calls = line.match(/(?<![\w.])_\(/g) ?? [];
            if (calls.length !== [...line.matchAll(/\b_\('((?:[^'\\]|\\.)*)'\)/g)].length)
                throw new Error(`${file}:${i + 1}: not a single literal in _()`);
        });
    }
    for (const file of jsons)
        readFileSync(join(app, file), 'utf8').split('\n').forEach((line) => {
            const [, text] = /"(?:title|description)": "([^"]*)"/.exec(line) || [];
            if (text) note(text, file);
        });
    const quoted = (text) => `"${text.replace(/(["\\])/g, '\\$1')}"`;
    const entries = [...found].sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([text, places]) => [...places].map((place) => `#: ${place}\n`).join('') + `msgid ${quoted(text)}\nmsgstr ""\n`);
    return ['msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8"\n', ...entries].join('\n');
}
