// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The daemon's codes in words: states, warnings, reasons for passing a connection direct, and what limits one.

'use strict';
'require baseclass';

const LIMITS = {
	satellite: {
		congestion: _('the satellite path (congestion window)'),
		receive_window: _('the far host, which takes no more (receive window)'),
		send_buffer: _('the router’s send buffer towards the satellite')
	},
	near: {
		congestion: _('the near path (congestion window)'),
		receive_window: _('the near host, which takes no more (receive window)'),
		send_buffer: _('the router’s send buffer towards the near host')
	}
};

return baseclass.extend({
	state: {
		connecting: _('connecting'),
		relaying: _('open'),
		half_closed: _('half closed')
	},

	warning: {
		satellite_not_slow: _('The side that should be the satellite answers fast. Splitting its connections gains nothing: look whether traffic goes over another line, or whether the zones of the link are right.'),
		auto_passing: _('The satellite side answers faster than the threshold, so new connections go end to end until it is slow again.'),
		slots_full: _('All connections are in use; new ones go end to end. Allow more in the settings if the router has the memory.'),
		undelivered: _('The daemon’s own connections do not reach it. Restart the firewall, and look for a rule that drops what comes from pepsal0.'),
		no_syns: _('No connection has come by since the start. The zones of the link may be wrong, or the firewall’s table is not loaded: nft list table inet pepsal'),
		fail_open: _('The router was too busy to hand over every connection; some went end to end.'),
		ending: _('The service is stopping. New connections go end to end, those that are open may finish.')
	},

	reason: {
		full: _('all connections were in use: allow more in the settings'),
		client_full: _('one device had as many connections as one may have'),
		signed: _('signed by its end hosts (TCP-MD5 or TCP-AO), as routing protocols do'),
		data: _('its first packet carried data (TCP Fast Open)'),
		unusual: _('its first packet was a fragment, had IP options, or was malformed'),
		refused: _('its server refused it'),
		unreachable: _('its server was unreachable'),
		timeout: _('its server did not answer in time'),
		memory: _('the memory for connections was used up, or the router had no descriptors or ports left'),
		fast_link: _('the satellite side was fast at the time'),
		undelivered: _('the daemon’s own connection did not reach it: look at the firewall’s rules for pepsal0'),
		ending: _('the service was stopping'),
		fail_open: _('the router was too busy to hand it over'),
		excluded: _('excepted in the settings')
	},

	// The direction that carries more decides. Its bytes arrive on one leg and are sent on the other; what holds the
	// sending back is known, and if nothing does, the host that they come from sends no faster.
	limit: function(connection, satellite) {
		const down = connection.rate.down_bps >= connection.rate.up_bps;
		const leg = connection.legs[down ? 'client' : 'server'];
		const side = (satellite == 'client') == down ? 'satellite' : 'near';

		if (connection.state == 'connecting')
			return _('waiting for an answer');
		if (connection.rate.down_bps + connection.rate.up_bps == 0 && leg && (leg.limited_by == 'sender' || leg.limited_by == null))
			return _('nothing: idle');
		if (!leg || leg.limited_by == null)
			return '–';
		if (leg.limited_by != 'sender')
			return LIMITS[side][leg.limited_by] || leg.limited_by;
		return down ? _('the server, or its path to here') : _('the client, or its path to here');
	}
});
