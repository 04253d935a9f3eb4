//! Tests of parsers and answers.
