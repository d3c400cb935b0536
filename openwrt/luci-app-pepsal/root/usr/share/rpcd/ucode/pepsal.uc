// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The ubus object luci.pepsal. Its one method answers with what the daemon says of itself (`pepsal status --json` and
// `pepsal connections --json`), or with an error that the status page can explain. It takes no arguments, and nothing
// but constants gets into a command line.
//
// rpcd does nothing else meanwhile, and a reply of ubus holds 1 MiB: so of very many connections only the first READ
// are read, and the LISTED busiest of those returned.
//
// Only what the ucode of 22.03 has for certain: require() instead of import, no slice(), no readfile().

'use strict';

const fs = require('fs');
const uci = require('uci');

const PROGRAM = '/usr/sbin/pepsal';
const READ = 1000;
const LISTED = 500;

// What the daemon cannot start without: the module's name, where it shows once it is loaded, and its package.
const MODULES = [
	[ 'nft_queue', '/sys/module/nft_queue', 'kmod-nft-queue' ],
	[ 'tun', '/dev/net/tun', 'kmod-tun' ]
];

function missing_packages() {
	const missing = [];

	for (let i = 0; i < length(MODULES); i++) {
		const needed = MODULES[i];

		if (!fs.stat(needed[1]) && !length(fs.glob('/lib/modules/*/' + needed[0] + '.ko')))
			push(missing, needed[2]);
	}
	return missing;
}

function switched_on() {
	const cursor = uci.cursor();
	const value = cursor ? cursor.get('pepsal', 'main', 'enabled') : null;

	return match(value || '0', /^(1|on|true|yes|enabled)$/) != null;
}

// What PATTERN finds in a file of lines such as "MemTotal:  123456 kB".
function kib(text, pattern) {
	const found = match(text || '', pattern);

	return found ? int(found[1]) : null;
}

function memory() {
	const file = fs.open('/proc/meminfo', 'r');
	const text = file ? file.read('all') : null;

	if (file)
		file.close();
	return {
		total_kib: kib(text, /MemTotal:[^0-9]*([0-9]+)/),
		available_kib: kib(text, /MemAvailable:[^0-9]*([0-9]+)/)
	};
}

function status() {
	const pipe = fs.popen(PROGRAM + ' status --json 2>&1', 'r');
	const text = pipe ? pipe.read('all') : null;
	const code = pipe ? pipe.close() : null;

	if (code !== 0)
		return { error: { code: 'stopped', text: substr(trim(text || ''), 0, 300) } };

	let told = null;

	try {
		told = json(text);
	}
	catch (e) {
	}
	if (type(told) == 'object')
		return { status: told };
	return { error: { code: 'garbled', text: substr(trim(text || ''), 0, 300) } };
}

function rate(connection) {
	return connection.rate.up_bps + connection.rate.down_bps;
}

// Each connection is on a line of its own, so a list can be read in part.
function connections() {
	const found = [];
	const pipe = fs.popen(PROGRAM + ' connections --json 2>/dev/null', 'r');
	let complete = true;

	if (!pipe)
		return null;

	for (let line = pipe.read('line'); length(line); line = pipe.read('line')) {
		if (substr(line, 0, 5) != '{"id"')
			continue;
		if (length(found) == READ) {
			complete = false;
			break;
		}
		try {
			push(found, json(rtrim(line, ',\r\n')));
		}
		catch (e) {
			complete = false;
		}
	}
	pipe.close();

	sort(found, function(a, b) { return rate(b) - rate(a); });
	if (length(found) > LISTED) {
		splice(found, LISTED);
		complete = false;
	}
	return { listed: found, complete: complete };
}

function answer() {
	if (!fs.stat(PROGRAM))
		return { error: { code: 'not_installed' } };

	const reply = status();

	reply.enabled = switched_on();
	if (reply.error) {
		reply.missing = missing_packages();
		return reply;
	}

	const list = connections();

	reply.connections = list ? list.listed : [];
	reply.connections_complete = list ? list.complete : false;
	reply.router = memory();
	return reply;
}

return {
	'luci.pepsal': {
		status: {
			call: function(request) {
				try {
					return answer();
				}
				catch (e) {
					return { error: { code: 'failed', text: e.message } };
				}
			}
		}
	}
};
