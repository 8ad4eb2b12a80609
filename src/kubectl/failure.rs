//! What goes wrong, in upstream's words.

use std::process::ExitCode;

use skiff_api::ApiError;
use skiff_client::Error;

/// A failure that ends a command.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Printed behind `error: `.
    #[error("{0}")]
    Text(String),
    /// The server said no; `context` is upstream's `error when creating "x.yaml"`.
    #[error("{error}")]
    Server { context: Option<String>, error: ApiError },
    /// The server could not be asked.
    #[error("{0}")]
    Unreachable(String),
    /// A command in a container ended with this code, which is ours too.
    #[error("command terminated with exit code {0}")]
    Exited(u8),
    /// The same of a pod, of which everything was said.
    #[error("ended with exit code {0}")]
    Ended(u8),
    /// Everything was said already.
    #[error("failed")]
    Silent,
}

impl Failure {
    pub fn text(text: impl Into<String>) -> anyhow::Error {
        Self::Text(text.into()).into()
    }

    /// From the client's error; `host` is the server's, for the sentence about a refused connection.
    pub fn from_client(error: Error, host: &str) -> Self {
        match error {
            Error::Api(error) => Self::Server { context: None, error },
            Error::Transport(_) => {
                let chain = chain(&error);
                if chain.contains("Connection refused") {
                    return Self::Unreachable(format!(
                        "The connection to the server {host} was refused - did you specify the right host or port?"
                    ));
                }
                Self::Unreachable(format!("Unable to connect to the server: {chain}"))
            }
            error => Self::Text(chain(&error)),
        }
    }

    /// Adds upstream's clause about what was done to which file.
    pub fn while_doing(error: anyhow::Error, context: impl Into<String>) -> anyhow::Error {
        match error.downcast::<Self>() {
            Ok(Self::Server { error, .. }) => Self::Server { context: Some(context.into()), error }.into(),
            Ok(other) => other.into(),
            Err(error) => error,
        }
    }
}

/// The server's answer inside an error.
pub fn api_error(error: &anyhow::Error) -> Option<&ApiError> {
    match error.downcast_ref::<Failure>() {
        Some(Failure::Server { error, .. }) => Some(error),
        _ => None,
    }
}

pub fn is_not_found(error: &anyhow::Error) -> bool {
    api_error(error).is_some_and(ApiError::is_not_found)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

/// Prints an error as upstream does.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let said = sentence(error);
    if !said.is_empty() {
        eprintln!("{said}");
    }
    match error.downcast_ref() {
        Some(Failure::Exited(code) | Failure::Ended(code)) => ExitCode::from(*code),
        _ => ExitCode::FAILURE,
    }
}

/// What went wrong with several things: one failure is that one, of more each stands in a line, without `error: `.
pub fn several(mut failures: Vec<anyhow::Error>) -> Result<(), anyhow::Error> {
    if failures.len() < 2 {
        return failures.pop().map_or(Ok(()), Err);
    }
    for failure in &failures {
        let said = sentence(failure);
        eprintln!("{}", said.strip_prefix("error: ").unwrap_or(&said));
    }
    Err(Failure::Silent.into())
}

pub fn sentence(error: &anyhow::Error) -> String {
    match error.downcast_ref::<Failure>() {
        Some(Failure::Silent | Failure::Ended(_)) => String::new(),
        Some(failure @ Failure::Exited(_)) => failure.to_string(),
        Some(Failure::Unreachable(text)) => text.clone(),
        Some(Failure::Text(text)) => format!("error: {text}"),
        Some(Failure::Server { context, error }) => server_sentence(context.as_deref(), error),
        None => format!("error: {error:#}"),
    }
}

fn server_sentence(context: Option<&str>, error: &ApiError) -> String {
    if error.reason == "Invalid" && context.is_none() {
        return invalid(error);
    }
    if error.code == 401 && error.message == "Unauthorized" {
        return "error: You must be logged in to the server (Unauthorized)".to_owned();
    }
    let reason = if error.reason.is_empty() { String::new() } else { format!(" ({})", error.reason) };
    let context = context.map(|context| format!("{context}: ")).unwrap_or_default();
    format!("Error from server{reason}: {context}{}", error.message)
}

fn invalid(error: &ApiError) -> String {
    let Some(details) = error.details.as_deref() else { return format!("The request is invalid: {}", error.message) };
    let what = match (details.kind.as_str(), details.name.as_str()) {
        ("", "") => "The request is invalid".to_owned(),
        (kind, name) => format!("The {kind} {name:?} is invalid"),
    };
    let causes: Vec<String> =
        details
            .causes
            .iter()
            .map(|cause| {
                if cause.field.is_empty() {
                    cause.message.clone()
                } else {
                    format!("{}: {}", cause.field, cause.message)
                }
            })
            .collect();
    match causes.as_slice() {
        [] => format!("{what}: {}", error.message),
        [one] => format!("{what}: {one}"),
        many => format!("{what}: {}", many.iter().map(|cause| format!("\n* {cause}")).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_api::status::Cause;

    #[test]
    fn sentences_are_upstreams() {
        let cause =
            |field: &str| Cause { reason: String::new(), message: "Required value".into(), field: field.into() };
        let server = |error| Failure::Server { context: None, error };
        for (failure, expect) in [
            (server(ApiError::not_found("", "pods", "x")), r#"Error from server (NotFound): pods "x" not found"#),
            (server(ApiError::unauthorized()), "error: You must be logged in to the server (Unauthorized)"),
            (
                server(ApiError::invalid("apps", "Deployment", "d", vec![cause("spec.selector")])),
                r#"The Deployment "d" is invalid: spec.selector: Required value"#,
            ),
            (
                server(ApiError::invalid("apps", "Deployment", "d", vec![cause("a"), cause("b")])),
                "The Deployment \"d\" is invalid: \n* a: Required value\n* b: Required value",
            ),
            (
                Failure::Server {
                    context: Some("error when creating \"x.yaml\"".into()),
                    error: ApiError::bad_request("no"),
                },
                r#"Error from server (BadRequest): error when creating "x.yaml": no"#,
            ),
            (Failure::Text("no".into()), "error: no"),
        ] {
            assert_eq!(sentence(&failure.into()), expect);
        }
    }
}
