//! Real packets, in network namespaces of the tests' own. They need root, and fail without.

mod pods;
mod services;
mod strangers;
mod world;

pub(crate) use world::options;
