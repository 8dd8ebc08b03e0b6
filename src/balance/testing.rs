//! Servers that a test sets up.

use std::sync::Arc;

use super::{Entry, Servers, Standing};

pub(super) struct Fakes {
    pub admits: Vec<bool>,
    pub in_flight: Vec<u32>,
    pub latency: Vec<Option<f64>>,
}

impl Fakes {
    pub fn new(count: usize) -> Fakes {
        let (admits, in_flight) = (vec![true; count], vec![0; count]);
        Fakes {
            admits,
            in_flight,
            latency: vec![None; count],
        }
    }
}

impl Servers for Fakes {
    fn admits(&self, index: usize) -> bool {
        self.admits[index]
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.in_flight[index]
    }

    fn latency(&self, index: usize) -> Option<f64> {
        self.latency[index]
    }
}

pub(super) fn entry(key: &str, weight: u32) -> Entry {
    let (key, standing) = (Arc::from(key), Standing::InRotation);
    Entry {
        key,
        weight,
        tenths: 10,
        backup: false,
        standing,
    }
}

pub(super) fn entries(weights: &[u32]) -> Vec<Entry> {
    let numbered = weights.iter().enumerate();
    numbered
        .map(|(number, &weight)| entry(&format!("10.0.0.{number}:80"), weight))
        .collect()
}
