// One line for each check, as in the other test scripts.
import { deepStrictEqual } from 'node:assert';

export const counts = { passed: 0, failed: 0 };

export async function check(name, body) {
    try {
        const remark = await body();
        counts.passed++;
        console.log(`ok: ${name}${remark ? ` (${remark})` : ''}`);
    } catch (error) {
        counts.failed++;
        console.log(`FAILED: ${name}\n    ${String(error.message ?? error).replace(/\n/g, '\n    ')}`);
    }
}

export function expect(truth, complaint) {
    if (!truth) throw new Error(complaint);
}

export function same(got, wanted) {
    deepStrictEqual(got, wanted);
}
