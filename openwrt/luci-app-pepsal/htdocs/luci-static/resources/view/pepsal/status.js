// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What the daemon does: is it accelerating, how much, what limits each connection, and what passes direct and why.
// Everything comes from one call every three seconds, whose answer is described in the daemon's status.schema.json and
// connections.schema.json; without one, the page says what to do.
//
// Text from the router gets into the page in lists only: E() and dom.content() take a bare string for HTML.

'use strict';
'require view';
'require dom';
'require poll';
'require rpc';
'require pepsal.graph as graph';
'require pepsal.words as words';

const INTERVAL = 3;
const SHOWN = 50;

const callStatus = rpc.declare({
	object: 'luci.pepsal',
	method: 'status',
	expect: { '': {} }
});

function ask() {
	return L.resolveDefault(callStatus(), {});
}

function bitrate(bps) {
	const units = [ 'bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s' ];
	let i = 0;

	for (; bps >= 1000 && i < 3; i++)
		bps /= 1000;
	return (i ? bps.toFixed(bps < 10 ? 2 : bps < 100 ? 1 : 0) : Math.round(bps)) + ' ' + units[i];
}

function size(bytes) {
	const units = [ 'B', 'KiB', 'MiB', 'GiB', 'TiB' ];
	let i = 0;

	for (; bytes >= 1024 && i < 4; i++)
		bytes /= 1024;
	return (i ? bytes.toFixed(bytes < 10 ? 2 : bytes < 100 ? 1 : 0) : bytes) + ' ' + units[i];
}

function milliseconds(ms) {
	return ms == null ? '–' : (ms < 10 ? ms.toFixed(1) : ms.toFixed(0)) + ' ms';
}

function whole(number) {
	return String(number);
}

function setting(title) {
	return E('a', { 'href': L.url('admin/services/pepsal/settings') }, [ title ]);
}

function command(text) {
	return E('code', { 'style': 'white-space:pre-wrap' }, [ text ]);
}

// A figure with its name above and an explanation below.
function tile(name, value, below) {
	return E('div', { 'style': 'flex:1 1 10em;min-width:9em' }, [
		E('div', { 'style': 'opacity:.75' }, [ name ]),
		E('div', { 'style': 'font-size:130%;white-space:nowrap' }, [ value ]),
		E('div', {}, below)
	]);
}

function gauge(name, used, most, text, below) {
	const percent = most > 0 ? Math.min(100, 100 * used / most) : 0;

	return tile(name, text, [
		E('div', { 'class': 'cbi-progressbar', 'title': '%d%%'.format(percent), 'style': 'min-width:0;max-width:16em' },
			E('div', { 'style': 'width:%.1f%%'.format(percent) })),
		E('small', {}, [ below ])
	]);
}

function table(titles, rows, placeholder) {
	return E('table', { 'class': 'table' }, [
		E('tr', { 'class': 'tr table-titles' }, titles.map(function(title) {
			return E('th', { 'class': 'th' }, [ title ]);
		}))
	].concat(rows.length ? rows.map(function(cells) {
		return E('tr', { 'class': 'tr' }, cells.map(function(cell, i) {
			return E('td', { 'class': 'td', 'data-title': titles[i] }, Array.isArray(cell) ? cell : [ cell ]);
		}));
	}) : [ E('tr', { 'class': 'tr placeholder' }, [
		E('td', { 'class': 'td', 'colspan': titles.length }, [ E('em', {}, [ placeholder ]) ])
	]) ]));
}

function lines(first, others) {
	return [ E('div', { 'style': 'white-space:nowrap' }, [ first ]) ].concat(others.map(function(text) {
		return E('small', { 'style': 'display:block;white-space:nowrap' }, [ text ]);
	}));
}

// Breaks where a colon is, since IPv6 addresses are long.
function endpoint(text) {
	return text.split(/(?=:)/).reduce(function(parts, part) {
		return parts.concat(parts.length ? [ E('wbr'), part ] : [ part ]);
	}, []);
}

// No round trip has been measured before the leg's handshake is over.
function legFigures(leg) {
	if (!leg || !leg.rtt_ms)
		return '–';
	return lines(milliseconds(leg.rtt_ms), [
		_('window %s').format(size(leg.cwnd * leg.mss_bytes)), _('%d sent again').format(leg.retransmits)
	]);
}

return view.extend({
	handleSaveApply: null,
	handleSave: null,
	handleReset: null,

	load: function() {
		return ask();
	},

	render: function(reply) {
		const colors = { up: '#e07b00', down: '#1f7ad1', connecting: '#999', half_closed: '#b569c9' };

		this.rates = graph.create(_('Rates'), [
			{ name: _('Down'), color: colors.down, area: true },
			{ name: _('Up'), color: colors.up }
		], bitrate, 10000);
		this.counts = graph.create(_('Connections'), [
			{ name: words.state.relaying, color: colors.down, area: true },
			{ name: words.state.half_closed, color: colors.half_closed, area: true, stacked: true },
			{ name: words.state.connecting, color: colors.connecting, area: true, stacked: true },
			{ name: _('All'), color: 'currentColor' }
		], whole, 10);
		// The daemon keeps the sum of connections only; what they are is noted here while the page is open.
		this.states = [];
		this.all = false;

		[ 'problem', 'head', 'warnings', 'figures', 'list', 'passed' ].forEach(L.bind(function(part) {
			this[part] = E('div');
		}, this));
		this.details = E('div', {}, [
			this.figures,
			E('h3', {}, [ _('Rates') ]), this.rates.node,
			E('h3', {}, [ _('Connections') ]), this.counts.node,
			this.list,
			E('h3', {}, [ _('Passed direct') ]),
			this.passed
		]);

		this.update(reply);
		poll.add(L.bind(function() {
			return ask().then(L.bind(this.update, this));
		}, this), INTERVAL);

		return E('div', { 'class': 'cbi-map' }, [
			E('h2', {}, [ _('Satellite acceleration') ]),
			this.head, this.problem, this.warnings, this.details
		]);
	},

	update: function(reply) {
		try {
			this.show(reply);
		}
		// Figures that are not there: a daemon of another version.
		catch (e) {
			this.show({ error: { code: 'garbled', text: String(e.message) } });
		}
	},

	show: function(reply) {
		const status = reply.status;

		this.reply = reply;
		dom.content(this.problem, status ? [] : this.renderProblem(reply));
		this.details.style.display = status ? '' : 'none';
		if (!status) {
			this.states = [];
			dom.content(this.head, []);
			dom.content(this.warnings, []);
			return;
		}

		dom.content(this.head, this.renderHead(status));
		dom.content(this.warnings, status.warnings.map(function(warning) {
			return E('div', { 'class': 'alert-message warning' }, [
				E('p', {}, [ words.warning[warning.code] || warning.text ])
			]);
		}));
		dom.content(this.figures, this.renderFigures(status, reply.router || {}));
		this.drawGraphs(status);
		this.updateList();
		dom.content(this.passed, this.renderPassed(status.syns));
	},

	renderProblem: function(reply) {
		const error = reply.error || { code: 'no_backend' };
		const box = function(title, paragraphs) {
			return [ E('div', { 'class': 'alert-message warning' }, [ E('h4', {}, [ title ]) ].concat(
				paragraphs.map(function(content) { return E('p', {}, content); })
			)) ];
		};
		const log = [ _('The log says why:'), ' ', command('logread -e pepsal') ];

		switch (error.code) {
		case 'not_installed':
			return box(_('pepsal is not installed.'), [
				[ _('Install its package:'), ' ', command('opkg install pepsal') ]
			]);

		case 'stopped':
			if (reply.missing && reply.missing.length)
				return box(_('The service is not running: a kernel module is missing.'), [
					[ _('Install it, then start the service:'), ' ', command('opkg install ' + reply.missing.join(' ') + '; /etc/init.d/pepsal restart') ]
				]);
			if (!reply.enabled)
				return box(_('The service is switched off.'), [
					[ _('Every connection goes end to end.'), ' ', _('Say what the link is, and switch the service on:'), ' ', setting(_('Settings')) ]
				]);
			return box(_('The service is switched on, but it is not running.'), [
				[ _('Every connection goes end to end.'), ' ', _('A value in the settings may not fit, or the service was stopped.') ],
				log,
				[ _('Start it:'), ' ', command('/etc/init.d/pepsal enable; /etc/init.d/pepsal restart') ],
				error.text ? [ E('small', {}, [ error.text ]) ] : []
			]);

		case 'no_backend':
			return box(_('The router does not answer for pepsal.'), [
				[ _('If the page was installed just now, log in again. Otherwise restart what answers:'), ' ', command('/etc/init.d/rpcd restart') ]
			]);

		default:
			return box(_('The service answers with something that this page does not understand.'), [
				[ _('The packages pepsal and luci-app-pepsal may be of different versions.') ],
				log,
				error.text ? [ E('small', {}, [ error.text ]) ] : []
			]);
		}
	},

	renderHead: function(status) {
		const link = status.link;
		const facts = [
			_('for %s').format('%t'.format(status.uptime_s)),
			status.handshake == 'early' ? _('clients are answered at once') : _('clients are answered when the server has answered'),
			_('congestion control %s').format(status.congestion || _('of the system'))
		];
		let state = _('Accelerating'), color = '#2e8b57';

		if (status.state == 'ending') {
			state = _('Stopping');
			color = '#c07000';
		}
		else if (status.auto_pass.passing) {
			state = _('Passing new connections direct');
			color = '#c07000';
		}

		if (link.rate_up_bps || link.rate_down_bps)
			facts.push(_('link of %s up, %s down').format(
				link.rate_up_bps ? bitrate(link.rate_up_bps) : '?', link.rate_down_bps ? bitrate(link.rate_down_bps) : '?'));
		if (status.transparent)
			facts.push(_('transparent'));
		facts.push('pepsal ' + status.version);

		return [ E('p', {}, [
			E('strong', { 'class': 'pepsal-state', 'style': 'color:#fff;background:%s;padding:.15em .6em;border-radius:.7em;margin-right:.6em'.format(color) }, [ state ]),
			facts.join(' · ')
		]) ];
	},

	renderFigures: function(status, router) {
		const rtt = status.handshake_rtt;
		const figures = [
			tile(_('Down'), bitrate(status.rate.down_bps), [ E('small', {}, [ _('%s since the start').format(size(status.bytes.down)) ]) ]),
			tile(_('Up'), bitrate(status.rate.up_bps), [ E('small', {}, [ _('%s since the start').format(size(status.bytes.up)) ]) ]),
			tile(_('Round trip, satellite'), milliseconds(rtt.satellite_ms), [ E('small', {}, [ _('near side %s').format(milliseconds(rtt.lan_ms)) ]) ]),
			gauge(_('Connections'), status.slots.used, status.slots.max, '%d / %d'.format(status.slots.used, status.slots.max),
				_('at most %d at a time so far').format(status.slots.peak)),
			gauge(_('Memory for connections'), status.memory.used_bytes, status.memory.budget_bytes,
				'%s / %s'.format(size(status.memory.used_bytes), size(status.memory.budget_bytes)),
				router.total_kib ? _('the router has %s of %s left').format(size(1024 * router.available_kib), size(1024 * router.total_kib)) : '')
		];

		return E('div', { 'style': 'display:flex;flex-wrap:wrap;gap:1em;margin:1em 0' }, figures);
	},

	drawGraphs: function(status) {
		const samples = status.samples;
		const aged = function(values) {
			return values.map(function(value, i) {
				return [ (values.length - 1 - i) * samples.interval_s, value ];
			});
		};
		const early = _('No sample yet. The first comes within seconds.');
		const now = Date.now() / 1000;
		const parts = status.connections;

		this.rates.draw([ aged(samples.down_bps), aged(samples.up_bps) ], [ status.rate.down_bps, status.rate.up_bps ], early);

		this.states.push([ now, parts.relaying, parts.relaying + parts.half_closed, parts.relaying + parts.half_closed + parts.connecting ]);
		this.states = this.states.filter(function(noted) { return now - noted[0] <= 120; });
		this.counts.draw([ 1, 2, 3 ].map(L.bind(function(i) {
			return this.states.map(function(noted) { return [ now - noted[0], noted[i] ]; });
		}, this)).concat([ aged(samples.connections) ]),
		[ parts.relaying, parts.half_closed, parts.connecting, status.slots.used ], early);
	},

	updateList: function() {
		const satellite = this.reply.status.satellite;
		const found = (this.reply.connections || []).slice().sort(function(a, b) {
			return (b.rate.up_bps + b.rate.down_bps) - (a.rate.up_bps + a.rate.down_bps);
		});
		const shown = this.all ? found : found.slice(0, SHOWN);
		const legNames = satellite == 'client'
			? [ _('Satellite leg'), _('Near leg') ] : [ _('Near leg'), _('Satellite leg') ];

		const content = [ table(
			[ _('Client'), _('Server'), _('State'), _('Down'), _('Up'), legNames[0], legNames[1], _('Limited by') ],
			shown.map(function(connection) {
				return [
					endpoint(connection.client), endpoint(connection.server),
					lines(words.state[connection.state] || connection.state, [ '%t'.format(connection.age_s) ]),
					lines(bitrate(connection.rate.down_bps), [ size(connection.bytes.down) ]),
					lines(bitrate(connection.rate.up_bps), [ size(connection.bytes.up) ]),
					legFigures(connection.legs.client), legFigures(connection.legs.server),
					E('div', { 'style': 'min-width:10em' }, [ words.limit(connection, satellite) ])
				];
			}),
			this.reply.status.syns.seen
				? _('No connection is accelerated at the moment.')
				: _('No connection has come by yet. Open one from a computer behind the router; if none shows here, the zones of the link in the settings are not those of this computer and the satellite.')
		) ];

		if (found.length > shown.length || this.all)
			content.push(E('p', {}, [
				E('button', { 'class': 'btn cbi-button', 'click': L.bind(function() {
					this.all = !this.all;
					this.updateList();
				}, this) }, [ this.all ? _('Show the %d busiest').format(SHOWN) : _('Show all %d').format(found.length) ])
			]));
		if (this.reply.connections_complete === false)
			content.push(E('p', {}, [ _('There are more connections than this page lists. All of them:'), ' ', command('pepsal connections') ]));

		dom.content(this.list, content);
	},

	renderPassed: function(syns) {
		const reasons = Object.keys(syns.passed).filter(function(code) { return syns.passed[code] > 0; });

		reasons.sort(function(a, b) { return syns.passed[b] - syns.passed[a]; });
		return [
			E('p', {}, syns.seen ? [ _('The service has seen %d connections and accelerated %d. These went end to end, and why:').format(syns.seen, syns.stolen) ] : []),
			table([ _('Connections'), _('Reason') ], reasons.map(function(code) {
				return [ whole(syns.passed[code]), words.reason[code] || code ];
			}), _('None so far.'))
		];
	}
});
