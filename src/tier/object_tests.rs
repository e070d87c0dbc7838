//! Tests of `super`.
