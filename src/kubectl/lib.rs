//! `skiff kubectl`: what kubectl does.
//!
//! Must not know: everything but `api`, `client`, `pki`.

/* Contract: pub fn main(args: Vec<OsString>) -> ExitCode;  (args without the program's name; builds its own current-thread tokio runtime) */
