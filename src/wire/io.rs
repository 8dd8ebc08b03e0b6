//! One socket type over TCP and unix.
