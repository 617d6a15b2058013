//! Facts as metrics: OpenMetrics text for Prometheus.
//!
//! The layers below keep their own counters; a scrape reads them all at once, so nothing is
//! counted twice and nothing is kept between scrapes.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Whether a number only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleKind {
    /// Only grows while the daemon lives; its name gets `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One number of one scrape.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Name without the `dormouse_` prefix, unit last.
    pub name: &'static str,
    /// What it says, for a person.
    pub help: &'static str,
    /// How it moves.
    pub kind: SampleKind,
    /// Its value.
    pub value: u64,
}

/// All numbers of one scrape, with labels that every one of them carries.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Label names and values, such as the workspace's name.
    pub labels: Vec<(&'static str, String)>,
    /// The numbers; names are distinct.
    pub samples: Vec<Sample>,
}

impl Collector for Facts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for sample in &self.samples {
            let metric: &dyn EncodeMetric = match sample.kind {
                SampleKind::Counter => &ConstCounter::new(sample.value),
                SampleKind::Gauge => {
                    &ConstGauge::new(i64::try_from(sample.value).unwrap_or(i64::MAX))
                }
            };
            let kind = metric.metric_type();
            let descriptor = encoder.encode_descriptor(sample.name, sample.help, None, kind)?;
            metric.encode(descriptor)?;
        }
        Ok(())
    }
}

/// The text of one scrape.
#[must_use]
pub fn render(mut facts: Facts) -> String {
    let labels = std::mem::take(&mut facts.labels).into_iter();
    let labels = labels.map(|(name, value)| (name.into(), value.into()));
    let mut registry = Registry::with_prefix_and_labels("dormouse", labels);
    registry.register_collector(Box::new(facts));
    let mut text = String::new();
    // Writing to a string can't fail; an encoder's own failure would leave the text short.
    if encode(&mut text, &registry).is_err() {
        tracing::error!("metrics could not be encoded");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_names_kinds_values_and_labels() {
        let sample = |name, kind, value| Sample { name, help: "Help", kind, value };
        let text = render(Facts {
            labels: vec![("workspace", "a\"b".to_owned())],
            samples: vec![
                sample("store_gets", SampleKind::Counter, 7),
                sample("dirty_bytes", SampleKind::Gauge, u64::MAX),
            ],
        });
        assert!(text.contains("# TYPE dormouse_store_gets counter\n"), "{text}");
        assert!(text.contains("dormouse_store_gets_total{workspace=\"a\\\"b\"} 7\n"), "{text}");
        assert!(text.contains("dormouse_dirty_bytes{workspace=\"a\\\"b\"} 9223372036854775807\n"));
        assert!(text.ends_with("# EOF\n"));
    }
}
