//! `skiff ctr`: the runtime of this node without a cluster.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use skiff_runtime::images::ImageStore;
use skiff_runtime::{ContainerState, Image, Runtime};

use crate::cli::{CtrArgs, CtrCommand, ImagesCommand, PlaceArgs};
use crate::server::{require_root, runtime_options};

pub fn run(arguments: CtrArgs) -> Result<ExitCode> {
    require_root("skiff ctr")?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    tokio.block_on(async {
        match arguments.command {
            CtrCommand::Images { command } => images(&arguments.place, command).await,
            CtrCommand::Ps => ps(&arguments.place).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn images(place: &PlaceArgs, command: ImagesCommand) -> Result<()> {
    let registries = match &command {
        ImagesCommand::Pull { private_registry, .. } => Some(private_registry.clone()),
        _ => None,
    };
    let store = ImageStore::open(&place.data_dir.join("agent"), registries)?;
    match command {
        ImagesCommand::Ls => print_images(&store.images()?),
        ImagesCommand::Import { archives } => {
            for archive in archives {
                for image in store.import(&archive).await? {
                    let names = if image.tags.is_empty() { vec![image.id.0] } else { image.tags };
                    names.iter().for_each(|name| println!("imported {name}"));
                }
            }
            Ok(())
        }
        ImagesCommand::Pull { reference, .. } => {
            let image = store.pull(&reference, None).await?;
            println!("pulled {reference}: {}", image.id.0);
            Ok(())
        }
        ImagesCommand::Rm { references } => {
            for reference in references {
                let agent = place.data_dir.join("agent");
                store.remove(&reference, move || skiff_runtime::images_in_use(&agent)).await?;
                println!("removed {reference}");
            }
            Ok(())
        }
    }
}

/// The runtime of a node that runs; looking at one must not start another.
pub async fn connect(place: &PlaceArgs) -> Result<Option<Runtime>> {
    if !place.run_dir.join("supervisor.sock").exists() {
        return Ok(None);
    }
    Ok(Some(Runtime::open(runtime_options(place, None)).await?))
}

fn print_images(images: &[Image]) -> Result<()> {
    let mut rows = vec![["IMAGE", "ID", "SIZE", "PINNED"].map(str::to_owned)];
    for image in images {
        let id = image.id.0.trim_start_matches("sha256:");
        let names = if image.tags.is_empty() { &image.digests } else { &image.tags };
        for name in if names.is_empty() { std::slice::from_ref(&image.id.0) } else { names } {
            let short = id.get(..12).unwrap_or(id).to_owned();
            rows.push([name.clone(), short, size(image.size_bytes), if image.pinned { "yes" } else { "" }.to_owned()]);
        }
    }
    print_rows(&rows)
}

async fn ps(place: &PlaceArgs) -> Result<()> {
    let Some(runtime) = connect(place).await? else {
        println!("No containers: the supervisor does not run.");
        return Ok(());
    };
    let mut rows =
        vec![["CONTAINER", "IMAGE", "STATE", "NAME", "ATTEMPT", "POD", "NAMESPACE", "PID"].map(str::to_owned)];
    let sandboxes = runtime.sandboxes().await?;
    for container in runtime.containers().await? {
        let pod = sandboxes.iter().find(|s| s.id == container.sandbox);
        let state = match &container.state {
            ContainerState::Created => "Created",
            ContainerState::Running { .. } => "Running",
            ContainerState::Exited(_) => "Exited",
            ContainerState::Unknown => "Unknown",
        };
        rows.push([
            container.id.0.get(..12).unwrap_or(&container.id.0).to_owned(),
            container.image_ref.clone(),
            state.to_owned(),
            container.name.clone(),
            container.attempt.to_string(),
            pod.map_or_else(String::new, |p| p.pod_name.clone()),
            pod.map_or_else(String::new, |p| p.pod_namespace.clone()),
            container.pid.map_or_else(String::new, |p| p.to_string()),
        ]);
    }
    print_rows(&rows)
}

fn print_rows<const N: usize>(rows: &[[String; N]]) -> Result<()> {
    let widths: Vec<usize> = (0..N).map(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0)).collect();
    let mut out = std::io::stdout().lock();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", line.join("   ").trim_end()).context("print")?;
    }
    Ok(())
}

fn size(bytes: u64) -> String {
    const STEPS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let (mut value, mut step) = (bytes as f64, 0);
    while value >= 1000.0 && step < STEPS.len() - 1 {
        value /= 1000.0;
        step += 1;
    }
    if step == 0 { format!("{bytes}B") } else { format!("{value:.1}{}", STEPS[step]) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes() {
        assert_eq!([super::size(999), super::size(1500), super::size(2_000_000_000)], ["999B", "1.5kB", "2.0GB"]);
    }
}
