// Tests of luci-app-pepsal: its views in headless Chromium on a stand-in for LuCI (standin/), against recorded answers;
// the rest of the package without. Not tested: the real LuCI, and ucode itself (see plugin.mjs).
//
//   node tests/luci/run.mjs [--accept] [--pictures DIR]
//
// --accept writes po/templates/pepsal.pot anew; --pictures keeps a screenshot of every state at both widths.
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as answers from './answers.mjs';
import { check, counts, expect, same } from './check.mjs';
import { chromium } from './chromium.mjs';
import { FORM, comparable, fileOptions, initOptions, installed } from './options.mjs';
import { pluginChecks } from './plugin.mjs';
import { template } from './pot.mjs';
import { formatUci, router } from './router.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const app = join(here, '../../openwrt/luci-app-pepsal');
const pictures = process.argv.includes('--pictures') ? process.argv[process.argv.indexOf('--pictures') + 1] : null;
const WIDTHS = { desktop: 1200, phone: 390 };
const read = (file) => readFileSync(join(app, file), 'utf8');
const schema = (name) => JSON.parse(readFileSync(join(here, `../control/${name}.schema.json`), 'utf8')).properties;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Of the router; what a page has to show, its own `until` waits for.
async function until(isTrue) {
    for (const end = Date.now() + 60000; !isTrue(); await sleep(50)) expect(Date.now() < end, `never came true: ${isTrue}`);
}

// --- the package's files

const scripts = readdirSync(join(app, 'htdocs'), { recursive: true }).filter((name) => name.endsWith('.js'))
    .map((name) => join('htdocs', name)).sort();
const MENU = 'root/usr/share/luci/menu.d/luci-app-pepsal.json';
const ACL = 'root/usr/share/rpcd/acl.d/luci-app-pepsal.json';
const POT = 'po/templates/pepsal.pot';

await check('menu, rights and views belong together', () => {
    const menu = JSON.parse(read(MENU));
    const acl = JSON.parse(read(ACL));
    const [group] = Object.keys(acl);
    for (const { action, depends } of Object.values(menu)) {
        if (action.type === 'view') read(`htdocs/luci-static/resources/view/${action.path}.js`);
        for (const name of depends?.acl ?? []) same(name, group);
    }
    same(acl[group].read.ubus, { 'luci.pepsal': ['status'] });
    same(acl[group].write, { uci: ['pepsal'] });
});

// The SDK minifies scripts with jsmin, which knows no template strings.
await check('no template string in the scripts', () => {
    for (const file of scripts) expect(!read(file).includes('`'), file);
});

await check('template of translations (--accept makes it anew)', () => {
    const made = template(app, scripts, [MENU, ACL]);
    if (process.argv.includes('--accept')) writeFileSync(join(app, POT), made);
    expect(made === read(POT), 'it is not what the views say');
});

const real = await pluginChecks();

// --- the views

const config = `config pepsal 'main'
	option enabled '1'
	option congestion 'bbr'

config link
	option name 'satellite'
	list lan 'lan'
	list wan 'wan'
	list wan 'wwan'
	option rate_up '5'

config exclude
	option comment 'management'
	list server '198.51.100.0/24'
	list port '22'
`;
const server = await router([['/luci-static', join(app, 'htdocs/luci-static')], ['/standin', join(here, 'standin')], ['/', join(here, 'standin')]], config);
const browser = await chromium();
const asked = new Set();

async function open(view, answer, size, body) {
    server.answer = answer;
    const page = await browser.page(`${server.url}/index.html?pepsal/${view}`, size);
    try {
        await page.until('window.settled === true');
        const result = await body(page);
        same(await page.eval('problems'), []);
        for (const text of await page.eval('[...asked]')) asked.add(text);
        return result;
    } finally {
        await page.close();
    }
}
const text = (page) => page.eval('document.getElementById("view").innerText');
const rows = (page) => page.eval('document.querySelectorAll("#view table")[0].querySelectorAll("tr.tr:not(.table-titles):not(.placeholder)").length');

async function picture(page, name, most = 2600) {
    if (!pictures) return;
    mkdirSync(pictures, { recursive: true });
    writeFileSync(join(pictures, `${name}.png`), await page.screenshot(most));
}

// [ answer, what the page says, what it does not say ]
const says = {
    running: [answers.running, ['Accelerating', '1d 3h 16m 54s', 'bbr', '5.00 Mbit/s up, 20.0 Mbit/s down', '18.3 Mbit/s', '612 ms', 'near side 3.0 ms', '26 / 1024',
        'at most 143', '3.38 MiB / 15.0 MiB', '59.6 MiB of 121 MiB left', '192.168.1.20:51234', '[2001:db8:42::80]:443', 'the server, or its path to here', 'the satellite path (congestion window)',
        'the near host, which takes no more (receive window)', 'the router’s send buffer towards the satellite', 'waiting for an answer', '83 sent again',
        'has seen 18342 connections and accelerated 17801', 'its server refused it', '211', 'excepted in the settings', '204', 'too busy'], ['all connections were in use', 'undefined', 'NaN', 'null', '[object']],
    fresh: [answers.fresh, ['Accelerating', 'No sample yet', 'No connection has come by yet', 'None so far', '0 / 1024', 'congestion control of the system'], ['undefined', 'NaN', 'null', 'has seen']],
    crowd: [answers.crowd, ['700 / 1024', 'Show all 500', 'There are more connections than this page lists', 'All connections are in use', 'something <b>new</b> is the matter', '5120'], []],
    hub: [answers.hub, ['transparent', 'the near path (congestion window)', 'the far host, which takes no more'], ['the satellite path']],
    passing: [answers.passing, ['Passing new connections direct', 'faster than the threshold', 'answers fast'], ['Accelerating']],
    ending: [answers.ending, ['Stopping', 'those that are open may finish'], ['Accelerating']],
    off: [answers.off, ['The service is switched off', 'goes end to end', 'Settings'], ['Accelerating', 'Rates', 'logread']],
    dead: [answers.dead, ['switched on, but it is not running', 'logread -e pepsal', '/etc/init.d/pepsal restart', '<img src=x'], ['Accelerating', 'Rates']],
    'module-missing': [answers.moduleMissing, ['a kernel module is missing', 'opkg install kmod-nft-queue'], ['Rates']],
    'not-installed': [answers.notInstalled, ['pepsal is not installed', 'opkg install pepsal'], ['Rates']],
    garbled: [answers.garbled, ['does not understand', 'different versions', '{"version":'], ['Rates']],
    older: [answers.older, ['does not understand', 'different versions'], ['Rates', 'Accelerating']],
    failed: [answers.failed, ['does not understand', 'left-hand side is null'], ['Rates']],
    'no-plugin': [null, ['does not answer for pepsal', '/etc/init.d/rpcd restart'], ['Rates']],
    'no-right': [6, ['does not answer for pepsal'], ['Rates']],
};
for (const [name, [answer, present, absent]] of Object.entries(says))
    for (const [device, width] of Object.entries(WIDTHS))
        await check(`status, ${name}, ${device}`, () => open('status', answer, { width }, async (page) => {
            // The rows of tables have labels on a phone, which innerText leaves out.
            const shown = await text(page);
            for (const words of present) expect(shown.includes(words), `it does not say: ${words}\n${shown}`);
            for (const words of absent) expect(!shown.includes(words), `it says: ${words}`);
            same(await page.eval('document.documentElement.scrollWidth'), width);
            expect(!(await page.eval('"hacked" in window')), 'text of the router was taken for HTML');
            await picture(page, `status-${name}-${device}`);
        }));

if (real)
    await check('status, of the daemon that runs', () => open('status', real, { width: WIDTHS.desktop }, async (page) => {
        const shown = await text(page);
        for (const words of ['Accelerating', 'No connection has come by yet', '0 / 1024']) expect(shown.includes(words), `it does not say: ${words}\n${shown}`);
        for (const words of ['undefined', 'NaN', 'null']) expect(!shown.includes(words), `it says: ${words}`);
    }));

await check('status, on a narrow phone', () => open('status', answers.running, { width: 320 }, async (page) => {
    same(await page.eval('document.documentElement.scrollWidth'), 320);
    await picture(page, 'status-running-narrow');
}));

await check('status, dark', () => open('status', answers.running, { width: WIDTHS.desktop, dark: true }, (page) => picture(page, 'status-running-dark')));

await check('status: graphs show the samples, the newest at the right', () => open('status', answers.running, { width: WIDTHS.desktop }, async (page) => {
    const [down, up, open_, , , all] = await page.eval('[...document.querySelectorAll("#view svg polygon, #view svg polyline")].map((it) => it.getAttribute("points").split(" ").map((p) => p.split(",").map(Number)))');
    const samples = answers.status.samples;
    same(down.length, samples.down_bps.length + 2);
    same([up.length, all.length], [samples.up_bps.length, samples.connections.length]);
    same([up[0][0], up.at(-1)[0]], [5, 600]);
    // 20 Mbit/s is the peak of the example, and so the top of the scale; 26 connections are 26/50 of theirs.
    same(down[samples.down_bps.indexOf(20000000)][1], 0);
    same(all.at(-1)[1], 150 - 26 * 3);
    // One point for each answer so far, and the two corners at the axis.
    expect(open_.length >= 3, `${open_.length} points`);
}));

await check('status: asks every three seconds, never twice at a time, and shows what changes', () => open('status', answers.off, { width: WIDTHS.desktop }, async (page) => {
    server.mostAsking = 0;
    server.answer = answers.running;
    await page.until('document.getElementById("view").innerText.includes("Accelerating")');
    const stopped = structuredClone(answers.running);
    stopped.status.rate.down_bps = 7770000;
    server.answer = stopped;
    await page.until('document.getElementById("view").innerText.includes("7.77 Mbit/s")');
    const before = await page.eval('document.querySelectorAll("#view *").length');
    // 9 s or more. One that a busy machine makes late is sooner followed by the next.
    const [began, first] = [Date.now(), server.asked];
    await until(() => server.asked >= first + 4);
    const seconds = (Date.now() - began) / 1000;
    expect(seconds > 5, `four times in ${seconds} s`);
    same(await page.eval('document.querySelectorAll("#view *").length'), before);
    // Longer than it waits between two.
    server.delay = 5000;
    const slow = server.asked;
    await until(() => server.asked >= slow + 2);
    server.delay = 0;
    same(server.mostAsking, 1);
    server.answer = answers.off;
    await page.until('document.getElementById("view").innerText.includes("switched off")');
    expect(!(await text(page)).includes('Rates'), 'figures of a service that is gone');
    return `four times in ${seconds.toFixed(1)} s`;
}));

await check('status: 500 connections, the busiest first, all on demand', () => open('status', answers.crowd, { width: WIDTHS.desktop }, async (page) => {
    same(await rows(page), 50);
    same(await page.eval('document.querySelector("#view table td").textContent'), answers.crowd.connections[499].client);
    await page.eval('[...document.querySelectorAll("#view button")].find((it) => it.textContent.includes("all 500")).click()');
    same(await rows(page), 500);
    const turns = await page.eval('polls.done');
    await page.until(`polls.done > ${turns}`);
    same(await rows(page), 500);
    const took = await page.eval('(() => { const begin = performance.now(); const view = polls.queue[0]; return Promise.resolve(view.fn()).then(() => performance.now() - begin); })()');
    await page.eval('[...document.querySelectorAll("#view button")].find((it) => it.textContent.includes("50 busiest")).click()');
    same(await rows(page), 50);
    return `an update with all of them took ${Math.round(took)} ms here`;
}));

await check('status: a word for every code of the schemas', () => open('status', answers.running, { width: WIDTHS.desktop }, async (page) => {
    const words = await page.eval('L.require("pepsal.words").then(({ warning, reason, state }) => ({ warning, reason, state }))');
    const { warnings, syns } = schema('status');
    same(Object.keys(words.warning).sort(), warnings.items.properties.code.enum.slice().sort());
    same(Object.keys(words.reason).sort(), Object.keys(syns.properties.passed.properties).sort());
    same(Object.keys(words.state).sort(), schema('connections').connections.items.properties.state.enum.slice().sort());
}));

// --- the form

await check('settings: the same options in the form, the init script and the UCI file', () => open('settings', null, { width: WIDTHS.desktop }, async (page) => {
    const form = await page.eval(FORM);
    const init = initOptions();
    same(Object.keys(form).sort(), Object.keys(init).sort());
    same(Object.keys(fileOptions()).sort(), Object.keys(init).sort());
    for (const [name, type] of Object.entries(init)) comparable(name, type, form[name]);
    return `${Object.keys(init).length} options`;
}));

// Of the form's validation, as the widget calls it: null or a complaint. What is chosen from a list cannot be typed.
const verdict = (section, option, value) => `(() => {
    const section = forms[0].children.find((it) => (it.id || it.sectiontype) === ${JSON.stringify(section)});
    const option = section.children.find((it) => it.option === ${JSON.stringify(option)});
    const value = ${JSON.stringify(value)};
    if (option.constructor === modules.form.prototype.Flag) return ['0', '1'].includes(value) ? null : 'a box';
    if (option.constructor === modules.form.prototype.ListValue) return value in option.choices ? null : 'no choice';
    return complaint(option.datatype, true, (text) => option.validate(section.cfgsections()[0], text), value);
})()`;
const SECTIONS = { main: 'main', sat: 'link', ex: 'exclude' };

await check('settings: refuses whatever the init script refuses (tests/package/cases/malformed)', () => open('settings', null, { width: WIDTHS.desktop }, async (page) => {
    const cases = readFileSync(join(here, '../package/cases/malformed'), 'utf8').split('\n')
        .filter((line) => line && !line.startsWith('#')).map((line) => /^(\S+) (\S+) (.*)$/.exec(line).slice(1));
    // A name that could be one of a congestion control: only the router's kernel knows.
    const beyond = cases.filter(([section, option, value]) => option === 'congestion' && /^\w+$/.test(value));
    const taken = [];
    for (const [section, option, value] of cases)
        if ((await page.eval(verdict(SECTIONS[section], option, value))) === null) taken.push(`${option}=${value}`);
    same(taken, beyond.map(([, option, value]) => `${option}=${value}`));
    return `${cases.length} values, of them ${beyond.length} that only the kernel can refuse`;
}));

await check('settings: takes what is right', () => open('settings', null, { width: WIDTHS.desktop }, async (page) => {
    const good = [['main', 'max_connections', '16384'], ['main', 'threads', '1'], ['main', 'connect_timeout', '120'], ['main', 'congestion', 'hybla'],
        ['main', 'handshake', 'early'], ['link', 'rate_up', '0.001'], ['link', 'rate_down', '10000'], ['link', 'rate_down', '2.048'], ['link', 'rtt', '600'],
        ['link', 'lan', 'lan guest'], ['link', 'wan', 'wwan'], ['link', 'rtt', ''], ['link', 'rate_up', ''], ['exclude', 'client', '192.168.1.10'],
        ['exclude', 'client', '10.0.0.0/8'], ['exclude', 'server', '2001:db8:1::/48'], ['exclude', 'server', 'fd00::1'],
        ['exclude', 'server', '::/0'], ['exclude', 'client', '1:2:3:4:5:6:7:8'], ['exclude', 'client', '::ffff:192.0.2.1'], ['exclude', 'client', '0123::/16'], ['exclude', 'port', '443'], ['exclude', 'port', '8000-8100']];
    for (const [section, option, value] of good) same([option, value, await page.eval(verdict(section, option, value))], [option, value, null]);
    const bad = [['link', 'rate_up', '1.0001'], ['main', 'max_connections', '010'], ['exclude', 'port', '0-5'], ['exclude', 'client', '10.0.0.0/255.0.0.0'],
        ['exclude', 'client', '10.0.0.0/8/8'], ['exclude', 'server', '1::2::3'], ['exclude', 'server', '::/-1'], ['main', 'threads', ' 4'], ['link', 'lan', 'lan nowhere']];
    for (const [section, option, value] of bad) expect((await page.eval(verdict(section, option, value))) !== null, `${option}=${value} was taken`);
}));

const field = (option, more = 'input') => `(document.querySelector('.modal [data-name="${option}"] ${more}') ?? document.querySelector('[data-name="${option}"] ${more}'))`;
const type = (option, value) => `{ const it = ${field(option)}; it.value = ${JSON.stringify(value)}; it.dispatchEvent(new Event('input', { bubbles: true })); }`;
const press = (title, where = 'document') => `[...${where}.querySelectorAll('button')].find((it) => it.textContent === ${JSON.stringify(title)}).click()`;

await check('settings: saving untouched changes nothing', () => open('settings', null, { width: WIDTHS.desktop }, async (page) => {
    server.saved = null;
    await page.eval(press('Save'));
    await until(() => server.saved);
    same(formatUci(server.saved), config);
}));

await check('settings: what is entered is what is saved', () => open('settings', null, { width: WIDTHS.desktop }, async (page) => {
    server.saved = null;
    await page.eval(`${field('handshake', 'select')}.value = 'early'`);
    await page.eval(type('rtt', '600'));
    await page.eval(`document.querySelector('[data-name="lan"] .cbi-dropdown label:nth-child(1) input').click()`);
    await page.eval(press('Add an exception'));
    await page.until('document.querySelector(".modal [data-name=port]")');
    await page.eval(type('port', '70000'));
    await page.eval(press('+', 'document.querySelector(".modal [data-name=port]")'));
    same(await page.eval('document.querySelector(".modal [data-name=port] .item")'), null);
    await page.eval(type('port', '8000-8100'));
    await page.eval(press('+', 'document.querySelector(".modal [data-name=port]")'));
    await picture(page, 'settings-exception-desktop', 900);
    await page.eval(press('Save', 'document.querySelector(".modal")'));
    await page.until('!document.querySelector(".modal") && document.querySelectorAll(".cbi-section-table-row").length === 2');
    // Saving in the dialogue draws the form anew, as in LuCI: what was not saved yet is entered again.
    await page.eval(`${field('handshake', 'select')}.value = 'early'`);
    await page.eval(type('rtt', '600'));
    await page.eval(`document.querySelector('[data-name="lan"] .cbi-dropdown label:nth-child(1) input').click()`);
    server.saved = null;
    await page.eval(press('Save'));
    await until(() => server.saved);
    same(formatUci(server.saved), config.replace("bbr'\n", "bbr'\n\toption handshake 'early'\n").replace("list lan 'lan'\n", "list lan 'guest'\n\tlist lan 'lan'\n")
        .replace("rate_up '5'\n", "rate_up '5'\n\toption rtt '600'\n") + "\nconfig exclude\n\tlist port '8000-8100'\n");
}));

await check('settings: what does not fit is not saved', () => open('settings', null, { width: WIDTHS.desktop }, async (page) => {
    server.saved = null;
    await page.eval(type('rtt', '0'));
    same(await page.eval(`${field('rtt')}.classList.contains('cbi-input-invalid')`), true);
    await page.eval(press('Save')).catch(() => {});
    await sleep(500);
    same(server.saved, null);
    await page.eval('problems.length = 0');
}));

await check('settings: a box knows the other words for 1', async () => {
    const ofHand = config.replace("enabled '1'", "enabled 'on'").replace("config exclude\n", "config exclude\n\toption enabled 'yes'\n");
    server.config = ofHand;
    await open('settings', null, { width: WIDTHS.desktop }, async (page) => {
        server.saved = null;
        await page.eval(press('Save'));
        await until(() => server.saved);
        same(formatUci(server.saved), config);
    }).finally(() => (server.config = config));
});

for (const [device, width] of Object.entries(WIDTHS))
    await check(`settings, ${device}`, () => open('settings', null, { width }, async (page) => {
        same(await page.eval('document.documentElement.scrollWidth'), width);
        expect((await text(page)).includes('198.51.100.0/24'), 'the exception is not shown');
        await picture(page, `settings-${device}`);
    }));

await check('every text that the views asked for is in the template', () => {
    const known = read(POT);
    for (const words of asked) expect(known.includes(`msgid "${words.replace(/(["\\])/g, '\\$1')}"`), `it has no: ${words}`);
    return `${asked.size} texts`;
});

await browser.close();
server.close();
console.log(`${counts.passed} passed, ${counts.failed} failed`);
process.exit(counts.failed ? 1 : 0);
