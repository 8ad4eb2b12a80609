//! Images that nobody uses go when the disk fills: those first that were used longest ago, never pinned ones.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use skiff_base::{chain, time};
use skiff_client::EventKind;
use skiff_runtime::Image;

use crate::context::Context;
use crate::stats;

/// What is known of an image besides what the store says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    first: Timestamp,
    used: Option<Timestamp>,
}

#[derive(Default)]
pub(crate) struct Collector {
    seen: HashMap<String, Seen>,
}

/// How many bytes are to go for the disk to be as empty as the low threshold has it; nothing below the high one.
fn plan_need(capacity: u64, available: u64, high: u8, low: u8) -> Option<i64> {
    let capacity = capacity.max(1);
    let used_percent = 100 - u128::from(available.min(capacity)) * 100 / u128::from(capacity);
    if used_percent < u128::from(high) {
        return None;
    }
    let wanted = u128::from(capacity) * u128::from(100 - low.min(100)) / 100;
    i64::try_from(wanted.saturating_sub(u128::from(available))).ok().filter(|need| *need > 0)
}

/// Which images go, in order, for `need` bytes.
fn plan_images(
    images: &[Image],
    seen: &HashMap<String, Seen>,
    in_use: &HashSet<String>,
    need: i64,
    min_age: Duration,
    now: Timestamp,
) -> Vec<Image> {
    let is_old = |at: Timestamp| Duration::try_from(now.duration_since(at)).is_ok_and(|age| age >= min_age);
    let mut candidates: Vec<(&Image, Seen)> = images
        .iter()
        .filter(|image| !image.pinned && !in_use.contains(&image.id.0))
        .filter_map(|image| Some((image, *seen.get(&image.id.0)?)))
        .filter(|(_, seen)| is_old(seen.first) && seen.used.is_none_or(|at| at < now))
        .collect();
    candidates.sort_by_key(|(_, seen)| (seen.used, seen.first));
    let mut freed = 0i64;
    let enough = candidates.into_iter().take_while(|(image, _)| {
        let more = freed < need;
        freed = freed.saturating_add(i64::try_from(image.size_bytes).unwrap_or(i64::MAX));
        more
    });
    enough.map(|(image, _)| image.clone()).collect()
}

impl Collector {
    /// Frees what the thresholds ask for.
    pub(crate) async fn collect(&mut self, ctx: &Context) {
        self.look(ctx).await;
        let settings = &ctx.options.settings;
        let directory = ctx.options.data_directory.clone();
        let Ok(Some(disk)) = tokio::task::spawn_blocking(move || stats::disk(&directory)).await else {
            return tracing::warn!("the disk of the images can't be looked at");
        };
        let (high, low) = (settings.image_gc_high, settings.image_gc_low);
        let Some(need) = plan_need(disk.capacity, disk.available, high, low) else { return };
        tracing::info!(bytes = need, "images that nobody uses are to go");
        let freed = self.free(ctx, need).await;
        if freed < need {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {need} bytes, but only found \
                 {freed} bytes eligible to free."
            );
            ctx.node_event(EventKind::Warning, "FreeDiskSpaceFailed", message);
        }
    }

    /// Removes images that nobody uses until so many bytes are free; how many are.
    pub(crate) async fn free(&mut self, ctx: &Context, need: i64) -> i64 {
        let Some((images, in_use)) = self.look(ctx).await else { return 0 };
        let min_age = ctx.options.settings.image_min_age;
        let mut freed = 0i64;
        for image in plan_images(&images, &self.seen, &in_use, need, min_age, time::now()) {
            match ctx.engine.remove_image(&image.id).await {
                Ok(()) => {
                    tracing::info!(image = image.id.0, names = ?image.tags, "an image that nobody uses is removed");
                    freed = freed.saturating_add(i64::try_from(image.size_bytes).unwrap_or(i64::MAX));
                    self.seen.remove(&image.id.0);
                }
                // Something began to use it.
                Err(e) => tracing::info!(image = image.id.0, error = %chain(&e), "an image is not removed"),
            }
        }
        if freed > 0 {
            ctx.status_changed.notify_one();
        }
        freed
    }

    /// The images, and which of them are in use now.
    async fn look(&mut self, ctx: &Context) -> Option<(Vec<Image>, HashSet<String>)> {
        let (images, in_use) = match tokio::join!(ctx.engine.images(), ctx.engine.images_in_use()) {
            (Ok(images), Ok(in_use)) => (images, in_use),
            (Err(e), _) | (_, Err(e)) => {
                tracing::warn!(error = %chain(&e), "what uses images is not known");
                return None;
            }
        };
        let now = time::now();
        let in_use: HashSet<String> = in_use.into_iter().map(|id| id.0).collect();
        self.seen.retain(|id, _| images.iter().any(|image| image.id.0 == *id));
        for image in &images {
            let seen = self.seen.entry(image.id.0.clone()).or_insert(Seen { first: now, used: None });
            if in_use.contains(&image.id.0) {
                seen.used = Some(now);
            }
        }
        Some((images, in_use))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_runtime::{ImageConfig, ImageId};

    #[test]
    fn how_much_is_to_go() {
        for (capacity, available, expected) in [
            (1000, 160, None),
            (1000, 151, Some(49)),
            (1000, 150, Some(50)),
            (1000, 0, Some(200)),
            (0, 0, None),
            (1000, 2000, None),
        ] {
            assert_eq!(plan_need(capacity, available, 85, 80), expected, "{available} of {capacity}");
        }
        // With a threshold of zero images are always to go.
        assert_eq!(plan_need(1000, 900, 1, 0), Some(100));
    }

    #[test]
    fn which_go() {
        let at = |s: i64| Timestamp::from_second(s).expect("in range");
        let image = |id: &str, pinned| Image {
            id: ImageId(id.into()),
            tags: Vec::new(),
            digests: Vec::new(),
            size_bytes: 100,
            pinned,
            user: String::new(),
            config: ImageConfig::default(),
        };
        let images = [
            image("used", false),
            image("pinned", true),
            image("young", false),
            image("lately", false),
            image("long ago", false),
            image("never", false),
        ];
        let seen = [
            ("used", 0, Some(1000)),
            ("pinned", 0, None),
            ("young", 950, None),
            ("lately", 0, Some(900)),
            ("long ago", 0, Some(100)),
            ("never", 0, None),
        ];
        let seen = seen.map(|(id, first, used)| (id.to_owned(), Seen { first: at(first), used: used.map(at) }));
        let seen: HashMap<String, Seen> = seen.into();
        let in_use = ["used".to_owned()].into();
        for (need, expected) in [
            (1, vec!["never"]),
            (100, vec!["never"]),
            (101, vec!["never", "long ago"]),
            (i64::MAX, vec!["never", "long ago", "lately"]),
        ] {
            let gone = plan_images(&images, &seen, &in_use, need, Duration::from_secs(120), at(1000));
            let gone: Vec<&str> = gone.iter().map(|i| i.id.0.as_str()).collect();
            assert_eq!(gone, expected, "{need}");
        }
    }
}
