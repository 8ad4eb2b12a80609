//! `-o custom-columns=NAME:.metadata.name,...`

use serde_json::Value;

use super::{JsonPath, Table};
use crate::{Failure, Result};
use skiff_api::jsonpath::show;

pub struct Columns {
    columns: Vec<(String, JsonPath)>,
}

impl Columns {
    pub fn parse(spec: &str) -> Result<Self> {
        if spec.is_empty() {
            return Err(Failure::text("custom-columns format specified but no custom columns given"));
        }
        let columns = spec.split(',').map(|column| {
            let (header, path) = column
                .split_once(':')
                .filter(|(header, path)| !header.is_empty() && !path.is_empty())
                .ok_or_else(|| {
                    Failure::text(format!(
                        "unexpected custom-columns spec: {column}, expected <header>:<json-path-expr>"
                    ))
                })?;
            Ok((header.to_owned(), JsonPath::parse_path(path)?))
        });
        Ok(Self { columns: columns.collect::<Result<_>>()? })
    }

    /// Headers in one line, expressions in the next.
    pub fn parse_file(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let mut words = || lines.next().unwrap_or_default().split_whitespace().collect::<Vec<_>>();
        let (headers, paths) = (words(), words());
        if headers.is_empty() || headers.len() != paths.len() {
            return Err(Failure::text(
                "the custom-columns file needs a line of headers and a line with as many expressions",
            ));
        }
        let columns =
            headers.into_iter().zip(paths).map(|(header, path)| Ok((header.to_owned(), JsonPath::parse_path(path)?)));
        Ok(Self { columns: columns.collect::<Result<_>>()? })
    }

    pub fn table(&self, objects: &[Value], header: bool) -> Result<Table> {
        let mut table = Table::default();
        if header {
            table.row(self.columns.iter().map(|(header, _)| header.clone()));
        }
        for object in objects {
            let cells = self.columns.iter().map(|(_, path)| {
                let found: Vec<String> = path.values(object)?.into_iter().map(show).collect();
                Ok(if found.is_empty() { "<none>".to_owned() } else { found.join(",") })
            });
            table.row(cells.collect::<Result<Vec<_>>>()?);
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_hold_expressions() {
        let columns = Columns::parse("NAME:.metadata.name,IMAGES:{.spec.containers[*].image},NO:.x").expect("valid");
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"image": "a"}, {"image": "b"}]}});
        assert_eq!(
            columns.table(&[pod], true).expect("table").to_string(),
            "NAME   IMAGES   NO\np      a,b      <none>\n"
        );
        assert!(Columns::parse("NAME").is_err());
    }
}
