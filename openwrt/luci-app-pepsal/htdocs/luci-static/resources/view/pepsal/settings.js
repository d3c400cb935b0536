// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The form over /etc/config/pepsal. It refuses what /etc/init.d/pepsal refuses, so that the service starts with whatever
// is saved here; tests/luci compares both. What is left at its default is not written.

'use strict';
'require view';
'require form';
'require network';
'require firewall';
'require validation';
'require tools.widgets as widgets';

// "010" means different numbers to different programs, so the init script takes none of them.
function wholeNumber(o, least, most) {
	o.datatype = 'and(uinteger,range(%d,%d))'.format(least, most);
	o.validate = function(section_id, value) {
		return (!value || value.charAt(0) != '0') || _('A number does not begin with 0.');
	};
}

function rate(o) {
	o.datatype = 'and(ufloat,range(0.001,10000))';
	o.validate = function(section_id, value) {
		const fraction = String(value || '').split('.')[1] || '';

		return fraction.length <= 3 || _('At most three digits after the point.');
	};
}

// A choice with a default, which is not written as long as it is not chosen in place of another.
function choice(o, preset) {
	o.default = preset;
	o.write = function(section_id, value) {
		if (value != preset || this.cfgvalue(section_id) != null)
			return this.super('write', [ section_id, value ]);
	};
}

// The service takes other words than 1 as well, and a box shows those, and saves them, as 0.
function box(o) {
	o.load = function(section_id) {
		const value = this.super('load', [ section_id ]);

		return /^(on|true|yes|enabled)$/.test(value) ? '1' : value;
	};
}

function joined(section_id) {
	return '%h'.format(L.toArray(this.cfgvalue(section_id)).join(', ')) || null;
}

// LuCI's own types let pass 010.0.0.1, which the service does not, and hand over the 8 of 10.0.0.0/8 for validation.
function networks(o) {
	o.validate = function(section_id, value) {
		const parts = String(value || '').split('/');
		const bits = validation.parseIPv4(parts[0]) ? 32 : validation.parseIPv6(parts[0]) ? 128 : 0;

		return !value || (bits > 0 && parts.length <= 2 && !/(^|[.:])0\d+\.|\.0\d+$/.test(parts[0]) &&
			(parts.length == 1 || (/^\d{1,3}$/.test(parts[1]) && +parts[1] <= bits))) ||
			_('Neither an address nor a network.');
	};
	o.textvalue = joined;
}

return view.extend({
	load: function() {
		return Promise.all([ firewall.getZones(), network.getNetworks() ]);
	},

	// A link's ends are firewall zones or network interfaces.
	ends: function(o, names) {
		o.multiple = true;
		o.rmempty = false;
		o.validate = function(section_id, value) {
			const unknown = String(value || '').split(/\s+/).filter(function(name) {
				return name != '' && names.indexOf(name) < 0;
			});

			return unknown.length == 0 ||
				_('%s is neither a firewall zone nor a network interface.').format(unknown[0]);
		};
	},

	render: function(found) {
		const names = found[0].concat(found[1]).map(function(it) { return it.getName(); });
		let m, s, o;

		m = new form.Map('pepsal', _('Satellite acceleration'),
			_('TCP connections over the satellite link are split in two at this router, so that the long round trip no longer governs the near side. A connection that the firewall does not forward is not touched.'));

		s = m.section(form.NamedSection, 'main', 'pepsal', _('Service'));
		s.tab('general', _('General'));
		s.tab('advanced', _('Advanced'));

		o = s.taboption('general', form.Flag, 'enabled', _('Enabled'),
			_('While this is off, nothing runs and every connection goes end to end.'));
		o.rmempty = false;
		box(o);

		o = s.taboption('general', form.ListValue, 'handshake', _('Answer clients'),
			_('At once saves a round trip, but a server that is not there then looks as if it had answered.'));
		o.value('deferred', _('When the server has answered'));
		o.value('early', _('At once'));
		choice(o, 'deferred');

		o = s.taboption('general', form.Value, 'congestion', _('Congestion control'),
			_('Towards the satellite. Hybla and BBR do not slow down for a long round trip or for losses of the radio; they come with the packages kmod-tcp-hybla and kmod-tcp-bbr, and are used by themselves if they are there.'));
		o.value('hybla', 'Hybla');
		o.value('bbr', 'BBR');
		o.value('cubic', 'CUBIC');
		o.datatype = 'uciname';
		o.placeholder = _('automatic');

		o = s.taboption('advanced', form.Value, 'max_connections', _('Connections at a time'),
			_('More than that go end to end.'));
		o.placeholder = '1024';
		wholeNumber(o, 1, 16384);

		o = s.taboption('advanced', form.Value, 'per_client', _('Connections of one device'),
			_('So that one device cannot take all of them; more than that go end to end. Devices behind another router of the LAN count as one, and an IPv6 network as four.'));
		o.placeholder = _('no limit');
		wholeNumber(o, 1, 16384);

		o = s.taboption('advanced', form.Value, 'threads', _('Threads'),
			_('Worker threads, by default one for each processor.'));
		o.placeholder = _('automatic');
		wholeNumber(o, 1, 64);

		o = s.taboption('advanced', form.Value, 'memory', _('Memory'),
			_('MiB that the buffers of all connections may take together. Beyond that, new connections go end to end.'));
		o.placeholder = _('an eighth of the RAM');
		wholeNumber(o, 1, 65536);

		o = s.taboption('advanced', form.Value, 'auto_pass', _('Pass on fast lines'),
			_('New connections go end to end while the way to the servers takes less than this many milliseconds, such as 150. For links that have another line to fall back to.'));
		o.placeholder = _('never');
		wholeNumber(o, 1, 10000);

		o = s.taboption('advanced', form.Value, 'connect_timeout', _('Connect timeout'),
			_('Seconds that a server has for its answer.'));
		o.placeholder = '20';
		wholeNumber(o, 1, 120);

		o = s.taboption('advanced', form.Flag, 'transparent', _('Transparent'),
			_('Servers see the client’s own address instead of the router’s. Without effect behind masquerading. Needs the package kmod-nft-socket.'));
		box(o);

		o = s.taboption('advanced', form.ListValue, 'log_level', _('Log'));
		o.value('info', _('What an operator has to know'));
		o.value('debug', _('Each connection'));
		choice(o, 'info');

		s = m.section(form.TypedSection, 'link', _('Satellite link'),
			_('What the firewall forwards from the LAN side to the WAN side is accelerated. With several links, the direction, rates and round trip time of the first enabled one count for all.'));
		s.anonymous = true;
		s.addremove = true;
		s.addbtntitle = _('Add a link');

		o = s.option(form.Flag, 'enabled', _('Enabled'));
		o.default = o.enabled;
		box(o);

		o = s.option(form.Value, 'name', _('Name'));

		o = s.option(widgets.ZoneSelect, 'lan', _('LAN side'),
			_('Firewall zones that clients are in. The name of a network interface is possible too.'));
		this.ends(o, names);

		o = s.option(widgets.ZoneSelect, 'wan', _('WAN side'),
			_('Firewall zones, or network interfaces, that servers are behind.'));
		this.ends(o, names);

		o = s.option(form.ListValue, 'satellite', _('The satellite is'));
		o.value('server', _('on the WAN side: this is a terminal’s router'));
		o.value('client', _('on the LAN side: this is a hub’s router'));
		choice(o, 'server');

		o = s.option(form.Value, 'rate_up', _('Rate up'), _('Of the link as sold, in Mbit/s.'));
		o.placeholder = _('unknown');
		rate(o);

		o = s.option(form.Value, 'rate_down', _('Rate down'), _('Of the link as sold, in Mbit/s.'));
		o.placeholder = _('unknown');
		rate(o);

		o = s.option(form.Value, 'rtt', _('Round trip time'), _('Of the link, in milliseconds; about 600 with a geostationary satellite.'));
		o.placeholder = _('unknown');
		wholeNumber(o, 1, 10000);

		s = m.section(form.GridSection, 'exclude', _('Exceptions'),
			_('What goes end to end all the same: connections from one of these clients, to one of these servers, or to one of these ports. Each entry counts by itself.'));
		s.anonymous = true;
		s.addremove = true;
		s.nodescriptions = true;
		s.addbtntitle = _('Add an exception');
		s.modaltitle = _('Exception');

		o = s.option(form.Flag, 'enabled', _('Enabled'));
		o.default = o.enabled;
		box(o);
		o.editable = true;

		o = s.option(form.Value, 'comment', _('Comment'));

		o = s.option(form.DynamicList, 'client', _('Clients'), _('Addresses or networks, such as 192.168.1.10 or 2001:db8:1::/48.'));
		networks(o);

		o = s.option(form.DynamicList, 'server', _('Servers'), _('Addresses or networks, such as 198.51.100.0/24.'));
		networks(o);

		o = s.option(form.DynamicList, 'port', _('Ports'), _('Of the server, single or as a range, such as 22 or 8000-8100.'));
		o.datatype = 'or(port,portrange)';
		o.validate = function(section_id, value) {
			return (!value || String(value).charAt(0) != '0') || _('Ports begin at 1.');
		};
		o.textvalue = joined;

		return m.render();
	}
});
