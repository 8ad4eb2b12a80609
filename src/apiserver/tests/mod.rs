//! A real server, driven over HTTPS and in process.
