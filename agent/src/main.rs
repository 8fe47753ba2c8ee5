//! The agent of one node: reads its arguments, wires the parts together, and ends them in order.

mod args;
mod egress;
mod fetch;
mod manifests;
mod store;

fn main() {}
