//! Start lines with their fields.

use crate::message::Fields;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    Get,
    Other(Box<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
    H2,
}

#[derive(Debug)]
pub struct RequestHead {
    pub method: Method,
    pub version: Version,
    pub fields: Fields,
}

#[derive(Debug)]
pub struct ResponseHead {
    pub status: u16,
    pub version: Version,
    pub fields: Fields,
}
