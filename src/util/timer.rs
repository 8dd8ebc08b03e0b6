//! Deadlines without a timer per request (DESIGN.md section 7).
