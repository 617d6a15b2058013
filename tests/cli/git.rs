//! Git on a workspace that has just woken up.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::World;

const FOLDERS: usize = 50;
const FILES_EACH: usize = 100;

fn git(world: &World, args: &[&str]) -> String {
    let repository = world.ws().join("repository");
    let line = [&["-C", repository.to_str().unwrap()], args].concat();
    let ran = world.command(Path::new("git"), &line).output().unwrap();
    assert!(ran.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

/// The data packs in the store.
fn data_packs(world: &World) -> Vec<PathBuf> {
    let folders = fs::read_dir(world.path("store/packs")).unwrap();
    let folders = folders.map(|folder| folder.unwrap().path());
    let packs = folders.flat_map(|folder| fs::read_dir(folder).unwrap());
    // Byte 6 of a pack is its kind: 1 for data (docs/format.md).
    packs.map(|pack| pack.unwrap().path()).filter(|pack| fs::read(pack).unwrap()[6] == 1).collect()
}

/// The proof is that the content can't be read: its packs are taken out of the store.
#[test]
fn git_status_after_a_resume_reads_no_tracked_file() {
    let mut world = World::new();
    world.set("GIT_CONFIG_GLOBAL", "/dev/null");
    for name in ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"]
    {
        world.set(name, "dormouse");
    }
    world.mount();
    let repository = world.ws().join("repository");
    for folder in 0..FOLDERS {
        let folder = repository.join(format!("folder-{folder:02}"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..FILES_EACH {
            let line = format!("{} {file}\n", folder.display());
            fs::write(folder.join(format!("{file}.txt")), line.repeat(1 + file)).unwrap();
        }
    }
    world.ok(&["checkpoint", "w"]);
    let tracked = data_packs(&world);
    assert!(!tracked.is_empty());
    // Git looks again at files that are as young as its index, in seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    git(&world, &["init", "-q"]);
    fs::write(repository.join(".gitignore"), "*.o\nbuild/\n").unwrap();
    fs::write(repository.join(".gitattributes"), "*.txt text eol=lf\n").unwrap();
    git(&world, &["add", "--all"]);
    git(&world, &["commit", "-q", "-m", "all"]);
    assert_eq!(git(&world, &["ls-files"]).lines().count(), FOLDERS * FILES_EACH + 2);
    assert_eq!(git(&world, &["status", "--porcelain"]), "");
    world.hibernate();
    world.lose_caches();
    for pack in &tracked {
        fs::remove_file(pack).unwrap();
    }

    world.ok(&["mount", "w", &world.text("ws")]);
    assert_eq!(git(&world, &["status", "--porcelain"]), "");
    assert_eq!(git(&world, &["diff", "--stat"]), "");
    let fetched = world.status()["chunks"]["chunks_fetched"].as_u64().unwrap();
    assert!(fetched > 0, "git's own files were fetched");
    let lost = fs::read(repository.join("folder-07/50.txt")).unwrap_err();
    assert_eq!(lost.raw_os_error(), Some(libc::EIO), "the content was here all the same");
    fs::write(repository.join("build.o"), "ignored").unwrap();
    fs::write(repository.join("new"), "seen").unwrap();
    assert_eq!(git(&world, &["status", "--porcelain"]), "?? new\n");
}
