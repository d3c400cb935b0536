// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A graph over the last two minutes, as SVG: some series of points over their age, the newest at the right. It scales
// with its box, so the writing is HTML on top of it.

'use strict';
'require baseclass';
'require dom';

const SECONDS = 120;
const WIDTH = 600;
const HEIGHT = 150;

function svg(name, attributes) {
	const node = document.createElementNS('http://www.w3.org/2000/svg', name);

	for (let key in attributes)
		node.setAttribute(key, attributes[key]);
	return node;
}

// The next of 1, 2, 5, 10, 20, 50 … so that the scale stands still while values move.
function ceiling(value, least) {
	let step = least;

	for (let i = 0; step < value; i++)
		step *= (i % 3 == 1) ? 2.5 : 2;
	return step;
}

function line(points, scale) {
	return points.map(function(point) {
		return (WIDTH - point[0] / SECONDS * WIDTH).toFixed(1) + ',' + (HEIGHT - point[1] * scale).toFixed(1);
	});
}

const Graph = baseclass.extend({
	// series: [ { name, color, area, stacked } ]; area: filled, down to the axis, or to the series before if it is stacked.
	// format(value): for the axis and the legend. least: the smallest value at the top.
	__init__: function(title, series, format, least) {
		this.series = series;
		this.format = format;
		this.least = least;

		const drawing = svg('svg', {
			'viewBox': '0 0 ' + WIDTH + ' ' + HEIGHT, 'preserveAspectRatio': 'none', 'role': 'img', 'aria-label': title,
			'style': 'display:block;width:100%;height:150px'
		});
		const middle = svg('path', {
			'd': 'M0 75H600M150 0V150M300 0V150M450 0V150', 'stroke': 'currentColor', 'stroke-opacity': '0.15',
			'vector-effect': 'non-scaling-stroke', 'fill': 'none'
		});
		drawing.appendChild(middle);

		this.shapes = series.map(function(one) {
			return drawing.appendChild(svg(one.area ? 'polygon' : 'polyline', {
				'fill': one.area ? one.color : 'none', 'fill-opacity': '0.6',
				'stroke': one.area ? 'none' : one.color, 'stroke-width': '1.5', 'vector-effect': 'non-scaling-stroke'
			}));
		});

		const label = 'position:absolute;left:.3em;padding:0 .3em;border-radius:.3em;background:rgba(128,128,128,.25);top:';

		this.top = E('small', { 'style': label + '.2em' });
		this.half = E('small', { 'style': label + '50%' });
		this.note = E('div', { 'style': 'position:absolute;left:5em;right:1em;top:35%;text-align:center' });
		this.values = series.map(function() { return E('strong', {}, [ '–' ]); });

		this.node = E('div', { 'class': 'pepsal-graph' }, [
			E('div', { 'style': 'position:relative;border:1px solid rgba(128,128,128,.4);overflow:hidden' }, [
				drawing, this.top, this.half, this.note
			]),
			E('div', { 'style': 'display:flex;flex-wrap:wrap;gap:.2em 1.2em;margin:.3em 0 1em' }, series.map(L.bind(function(one, i) {
				return E('span', {}, [
					E('span', { 'style': 'display:inline-block;width:.8em;height:.8em;margin-right:.4em;background:' + one.color }),
					one.name, ' ', this.values[i]
				]);
			}, this)).concat([ E('span', { 'style': 'margin-left:auto;opacity:.75' }, [ _('the last two minutes') ]) ]))
		]);
	},

	// points: for each series a list of [ age in seconds, value ], the oldest first. Stacked series come as sums.
	// now: for the legend. note: what to say instead if there are no points.
	draw: function(points, now, note) {
		let most = 0, any = false;

		points.forEach(function(series) {
			series.forEach(function(point) {
				any = true;
				most = Math.max(most, point[1]);
			});
		});

		const top = ceiling(most, this.least);
		let below = null;

		this.series.forEach(L.bind(function(one, i) {
			const upper = line(points[i], HEIGHT / top);

			if (one.area && points[i].length) {
				const floor = (one.stacked && below) ? below.slice().reverse() : [
					upper[upper.length - 1].split(',')[0] + ',' + HEIGHT, upper[0].split(',')[0] + ',' + HEIGHT
				];

				this.shapes[i].setAttribute('points', upper.concat(floor).join(' '));
				below = upper;
			}
			else {
				this.shapes[i].setAttribute('points', upper.join(' '));
			}
			dom.content(this.values[i], [ now[i] == null ? '–' : this.format(now[i]) ]);
		}, this));

		dom.content(this.top, any ? [ this.format(top) ] : []);
		dom.content(this.half, any ? [ this.format(top / 2) ] : []);
		dom.content(this.note, any ? [] : [ note ]);
	}
});

// LuCI makes one instance of what a module returns.
return baseclass.extend({
	create: function(title, series, format, least) {
		return new Graph(title, series, format, least);
	}
});
