//! Figures of a device. It must not know how they are measured.

use std::time::Duration;

/// Times of a device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Speed {
    /// From a submission to its results, without computing: L.
    pub launch: Duration,
    /// More for each expert, by shape: g.
    pub expert: Vec<Duration>,
    /// Bytes of an expert that are copied to the device in a second.
    pub upload: f64,
}
