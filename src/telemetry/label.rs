//! Labels whose values are known at compile time.
//!
//! Each value has its counter or histogram from the start, at the value's index. Counting therefore needs no hash
//! look-up, no lock and no allocation. A value that has not occurred is exposed as zero, so that an alert on an
//! increase sees the first occurrence.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

/// Why registering a metric cannot fail.
pub(super) const VALID: &str = "names of metrics are valid, and each is registered once";

/// The values of a label.
pub trait Label: Copy + 'static {
    /// All values, each at its [`Label::index`].
    const ALL: &'static [Self];

    /// The value's position in [`Label::ALL`], from 0.
    fn index(self) -> usize;

    /// The label value in the Prometheus text.
    fn text(self) -> &'static str;
}

/// Defines an enum and implements [`Label`] for it.
macro_rules! label {
    ($(#[$of_enum:meta])* $name:ident { $($(#[$of_variant:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$of_enum])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$of_variant])* $variant,)+ }

        impl crate::telemetry::label::Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn index(self) -> usize {
                self as usize
            }

            fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}
pub(super) use label;

/// A counter for each value of a label.
#[derive(Clone, Debug)]
pub struct Counters<L> {
    children: Arc<[IntCounter]>,
    label: PhantomData<L>,
}

impl<L: Label> Counters<L> {
    pub(super) fn new(registry: &Registry, name: &str, help: &str, label: &str) -> Self {
        let family = IntCounterVec::new(Opts::new(name, help), &[label]).expect(VALID);
        let child = |value: &L| family.with_label_values(&[value.text()]);
        let children = L::ALL.iter().map(child).collect();
        register(registry, family);
        Self {
            children,
            label: PhantomData,
        }
    }

    /// Increments the counter of this value.
    pub fn count(&self, value: L) {
        self.children[value.index()].inc();
    }
}

/// A histogram of durations for each value of a label.
#[derive(Clone, Debug)]
pub struct Histograms<L> {
    children: Arc<[Histogram]>,
    label: PhantomData<L>,
}

impl<L: Label> Histograms<L> {
    pub(super) fn new(
        registry: &Registry,
        name: &str,
        help: &str,
        label: &str,
        buckets: &[f64],
    ) -> Self {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let family = HistogramVec::new(options, &[label]).expect(VALID);
        let child = |value: &L| family.with_label_values(&[value.text()]);
        let children = L::ALL.iter().map(child).collect();
        register(registry, family);
        Self {
            children,
            label: PhantomData,
        }
    }

    /// Adds one duration to the histogram of this value.
    pub fn observe(&self, value: L, took: Duration) {
        self.children[value.index()].observe(took.as_secs_f64());
    }
}

pub(super) fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    let counter = IntCounter::new(name, help).expect(VALID);
    register(registry, counter.clone());
    counter
}

pub(super) fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    let histogram = Histogram::with_opts(options).expect(VALID);
    register(registry, histogram.clone());
    histogram
}

pub(super) fn register(registry: &Registry, metric: impl Collector + 'static) {
    registry.register(Box::new(metric)).expect(VALID);
}
