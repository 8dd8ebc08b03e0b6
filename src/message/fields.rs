//! Header fields as received bytes with positions; edits are marks and an overlay.

/// (being written)
#[derive(Debug)]
pub struct Fields {}

/// (being written)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    Host,
}
