//! The one task that moves live state: breakers, slow start, verdicts, panic and orders.
