//! Settings from files, environment and arguments.

mod cascade;
mod golden;
mod messages;
mod round_trip;
mod typed;
