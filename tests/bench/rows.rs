//! The measurements of all rounds: lines of round,peer,line,metric,value.
//!
//! Ratios are taken between peers within one round, whose measurements follow each other within seconds, and their
//! median is what counts: on a machine whose speed drifts, medians of the peers' own figures would not compare.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Values by round.
type Series = BTreeMap<u32, f64>;

pub struct Rows {
    /// By line, metric and peer.
    series: BTreeMap<(String, String, String), Series>,
    /// In the order in which they were measured first.
    pub peers: Vec<String>,
    pub lines: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub rounds: usize,
}

impl Rows {
    pub fn read(path: &Path) -> Result<Rows, String> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Rows::parse(&text)
    }

    fn parse(text: &str) -> Result<Rows, String> {
        let mut rows = Rows { series: BTreeMap::new(), peers: Vec::new(), lines: Vec::new() };
        for row in text.lines() {
            let fields: Vec<&str> = row.split(',').collect();
            let wrong = || format!("'{row}' is no measurement");
            let &[round, peer, line, metric, value] = &fields[..] else {
                return Err(wrong());
            };
            let (round, value) = round.parse().ok().zip(value.parse().ok()).ok_or_else(wrong)?;
            for (list, name) in [(&mut rows.peers, peer), (&mut rows.lines, line)] {
                if !list.iter().any(|known| known == name) {
                    list.push(name.into());
                }
            }
            let key = (line.into(), metric.into(), peer.into());
            rows.series.entry(key).or_default().insert(round, value);
        }
        Ok(rows)
    }

    fn series(&self, line: &str, metric: &str, peer: &str) -> Option<&Series> {
        self.series.get(&(line.into(), metric.into(), peer.into()))
    }

    pub fn spread(&self, line: &str, metric: &str, peer: &str) -> Option<Spread> {
        spread(self.series(line, metric, peer)?.values().copied().collect())
    }

    /// How many times `base`'s value `peer`'s is, over the rounds that have both.
    pub fn ratio(&self, line: &str, metric: &str, peer: &str, base: &str) -> Option<Spread> {
        let (own, other) = (self.series(line, metric, peer)?, self.series(line, metric, base)?);
        let both = own.iter().filter_map(|(round, value)| Some(value / other.get(round)?));
        spread(both.filter(|ratio| ratio.is_finite()).collect())
    }

    /// All values of one metric, whatever the line and peer.
    pub fn everywhere(&self, metric: &str) -> Option<Spread> {
        let of_metric = self.series.iter().filter(|((_, name, _), _)| name == metric);
        spread(of_metric.flat_map(|(_, series)| series.values().copied()).collect())
    }

    /// The lines that begin with `prefix`.
    pub fn lines_like(&self, prefix: &str) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str).filter(move |line| line.starts_with(prefix))
    }
}

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let (&low, &high) = (values.first()?, values.last()?);
    let middle = values.len() / 2;
    let median =
        if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
    Some(Spread { median, low, high, rounds: values.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_rounds() {
        let text = "1,a,x,m,10\n1,b,x,m,5\n2,a,x,m,100\n2,b,x,m,50\n3,a,x,m,6\n3,b,x,m,4\n4,a,x,m,1\n";
        let rows = Rows::parse(text).expect("all rows are right");
        let ratio = rows.ratio("x", "m", "a", "b").expect("three rounds have both");
        assert_eq!(ratio, Spread { median: 2.0, low: 1.5, high: 2.0, rounds: 3 });
        assert_eq!(rows.spread("x", "m", "a").map(|it| it.median), Some(8.0));
        assert_eq!(rows.peers, ["a", "b"]);
        assert!(Rows::parse("1,a,x,m\n").is_err());
    }
}
