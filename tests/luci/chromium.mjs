// Chromium through its debugging pipe (file descriptors 3 and 4, messages end with a zero byte), with nothing but Node.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

// Of a machine that is new and busy: its start alone has to read hundreds of megabytes.
const PATIENCE = 180000;

export async function chromium() {
    const profile = mkdtempSync(join(tmpdir(), 'pepsal-luci-'));
    const child = spawn('chromium', [
        '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
        '--disable-component-update', '--disable-sync', '--hide-scrollbars', '--remote-debugging-pipe', `--user-data-dir=${profile}`,
    ], { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
    const waiting = new Map();
    let last = 0;
    let rest = '';
    let gone = false;
    child.on('error', () => (gone = true));
    child.on('exit', () => {
        gone = true;
        for (const { reject } of waiting.values()) reject(new Error('chromium ended'));
    });
    child.stdio[3].on('error', () => {});
    child.stdio[4].on('data', (bytes) => {
        const messages = (rest + bytes).split('\0');
        rest = messages.pop();
        for (const { id, result, error } of messages.map((text) => JSON.parse(text))) {
            if (!waiting.has(id)) continue;
            const { resolve, reject } = waiting.get(id);
            waiting.delete(id);
            if (error) reject(new Error(error.message));
            else resolve(result);
        }
    });
    const send = (method, params = {}, sessionId) => new Promise((resolve, reject) => {
        if (gone) return reject(new Error('chromium is not running'));
        const id = ++last;
        const timer = setTimeout(() => waiting.delete(id) && reject(new Error(`${method}: no answer`)), PATIENCE);
        const settle = (settled) => (value) => (clearTimeout(timer), settled(value));
        waiting.set(id, { resolve: settle(resolve), reject: settle(reject) });
        child.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + '\0');
    });

    return {
        async page(url, { width, height = 900, dark = false }) {
            const { targetId } = await send('Target.createTarget', { url: 'about:blank' });
            const { sessionId } = await send('Target.attachToTarget', { targetId, flatten: true });
            const call = (method, params) => send(method, params, sessionId);
            await call('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: width < 600 });
            await call('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }] });
            await call('Page.navigate', { url });
            const page = {
                // What an expression, which may be a promise, comes to in the page.
                async eval(expression) {
                    const { result, exceptionDetails } = await call('Runtime.evaluate',
                        { expression, awaitPromise: true, returnByValue: true });
                    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
                    return result.value;
                },
                async until(expression) {
                    const end = Date.now() + PATIENCE;
                    while (!(await page.eval(expression))) {
                        if (Date.now() > end) throw new Error(`never came true: ${expression}`);
                        await new Promise((resolve) => setTimeout(resolve, 50));
                    }
                },
                async screenshot(most) {
                    const height = Math.min(most, await page.eval('document.documentElement.scrollHeight'));
                    const clip = { x: 0, y: 0, width, height, scale: 1 };
                    const { data } = await call('Page.captureScreenshot', { format: 'png', clip, captureBeyondViewport: true });
                    return Buffer.from(data, 'base64');
                },
                close: () => send('Target.closeTarget', { targetId }),
            };
            return page;
        },
        async close() {
            const ended = new Promise((resolve) => child.on('exit', resolve));
            await send('Browser.close').catch(() => child.kill());
            const killer = setTimeout(() => child.kill('SIGKILL'), 30000);
            if (!gone) await ended;
            clearTimeout(killer);
            rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
        },
    };
}
