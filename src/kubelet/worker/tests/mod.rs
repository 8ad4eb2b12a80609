//! The life of pods, with a fake machine below and a fake API server above.

mod life;
mod parts;
