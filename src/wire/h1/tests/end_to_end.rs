//! Both sides with a bare proxy between them.
