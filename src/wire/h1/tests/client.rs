//! The client side against a server of raw bytes.
