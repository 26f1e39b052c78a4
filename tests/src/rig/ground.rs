//! The ground that an agent stands on: an ext4 image on a loop device, whose power can be cut, which can be
//! filled and can turn read-only; or a plain directory where there are no loop devices. What is on it is
//! put back to a saved state before each point.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::process::{Pid, Signal, kill_process};

/// Size of the image: what an agent keeps free, and as much again.
const IMAGE: &str = "40M";
/// How long a loop device may take to let go of the image before it is left to whoever has it.
const LET_GO: std::time::Duration = std::time::Duration::from_millis(500);
/// `EXT4_IOC_SHUTDOWN`.
const SHUTDOWN: &str = "import fcntl,os,struct,sys\n\
    fd=os.open(sys.argv[1],os.O_RDONLY)\nfcntl.ioctl(fd,0x8004587d,struct.pack('I',int(sys.argv[2])))";

/// What is mounted now, for whoever ends the rig early.
static MOUNTED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// How the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// What the journal had in memory reaches the disk.
    Flushed,
    /// It does not.
    Lost,
}

/// See the module.
#[derive(Debug)]
pub struct Ground {
    dir: tempfile::TempDir,
    image: bool,
    mounted: bool,
}

impl Ground {
    /// On an image, or says why there can be none.
    pub fn image() -> Result<Self, String> {
        let mut ground = Self { dir: directory(), image: true, mounted: false };
        std::fs::create_dir_all(ground.place()).unwrap();
        let image = ground.file("image");
        run("truncate", &["-s", IMAGE, &shown(&image)])?;
        run("mkfs.ext4", &["-q", "-m", "0", "-I", "256", "-O", "^metadata_csum_seed", &shown(&image)])?;
        ground.mount()?;
        Ok(ground)
    }

    /// In a directory.
    pub fn plain() -> Self {
        let ground = Self { dir: directory(), image: false, mounted: false };
        std::fs::create_dir_all(ground.place()).unwrap();
        ground
    }

    /// Whether its power can be cut, and so on.
    pub fn is_image(&self) -> bool {
        self.image
    }

    /// Where the agent's files are.
    pub fn place(&self) -> PathBuf {
        self.dir.path().join("place")
    }

    /// A file beside it, which nothing is done to.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Saves what is there as `name`.
    pub fn save(&mut self, name: &str) -> Result<(), String> {
        if self.image {
            self.unmount()?;
            std::fs::copy(self.file("image"), self.file(name)).map_err(|error| error.to_string())?;
            return self.mount();
        }
        run("cp", &["-a", &shown(&self.place()), &shown(&self.file(name))])
    }

    /// Puts back what was saved as `name`.
    pub fn restore(&mut self, name: &str) -> Result<(), String> {
        self.end_users();
        if self.image {
            self.unmount()?;
            // Sparse and in place: the file keeps its pages.
            run("cp", &["--sparse=always", &shown(&self.file(name)), &shown(&self.file("image"))])?;
            return self.mount();
        }
        std::fs::remove_dir_all(self.place()).map_err(|error| error.to_string())?;
        run("cp", &["-a", &shown(&self.file(name)), &shown(&self.place())])
    }

    /// Mounts `file` of the place by itself at `at` beside it, as a container does.
    pub fn bind(&self, file: &Path, at: &str) -> Result<PathBuf, String> {
        let at = self.file(at);
        if file.is_dir() {
            std::fs::create_dir_all(&at).unwrap();
        } else {
            std::fs::write(&at, "").unwrap();
        }
        run("mount", &["--bind", &shown(file), &shown(&at)])?;
        mounted().push(at.clone());
        Ok(at)
    }

    /// Takes such a mount away.
    pub fn unbind(&self, at: &str) {
        let at = self.file(at);
        if mounted().contains(&at) {
            take_away(&at);
        }
    }

    /// What cuts its power, from any thread.
    pub fn cutter(&self, cut: Cut) -> impl FnOnce() + Send + 'static {
        let place = self.place();
        move || {
            let flag = if cut == Cut::Flushed { "1" } else { "2" };
            if let Err(error) = run(python(), &["-I", "-S", "-c", SHUTDOWN, &shown(&place), flag]) {
                eprintln!("the power could not be cut: {error}");
            }
        }
    }

    /// What makes it read-only, as an error of the disk does.
    pub fn breaker(&self) -> impl FnOnce() + Send + 'static {
        let device = std::fs::metadata(self.place()).map(|stat| rustix::fs::minor(stat.dev())).unwrap_or(0);
        move || {
            let trigger = format!("/sys/fs/ext4/loop{device}/trigger_fs_error");
            if let Err(error) = std::fs::write(&trigger, "by the rig") {
                eprintln!("{trigger}: {error}");
            }
        }
    }

    /// What fills it until `left` bytes are free.
    pub fn filler(&self, left: u64) -> impl FnOnce() + Send + 'static {
        let place = self.place();
        move || fill(&place, left)
    }

    /// Makes room again.
    pub fn empty(&self) {
        drop(std::fs::remove_file(self.place().join("filler")));
    }

    /// After a power cut: everything that used it is ended, and it is mounted anew; the kernel replays the journal.
    pub fn again(&mut self) -> Result<(), String> {
        self.end_users();
        self.unmount()?;
        self.mount()
    }

    /// The same after an error, whose mark is cleared first, as an operator does.
    pub fn repaired(&mut self) -> Result<(), String> {
        self.end_users();
        self.unmount()?;
        let check = Command::new("e2fsck").args(["-fy", &shown(&self.file("image"))]).output();
        let check = check.map_err(|error| format!("e2fsck: {error}"))?;
        if check.status.code().is_none_or(|code| code >= 4) {
            return Err(format!("e2fsck: {}", String::from_utf8_lossy(&check.stdout)));
        }
        self.mount()
    }

    /// Ends every process that was started by an agent of this ground: its command line or its directory
    /// names it.
    pub fn end_users(&self) {
        let mine = shown(self.dir.path());
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let names = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).contains(&mine);
            let by_line = std::fs::read(process.path().join("cmdline")).is_ok_and(names);
            let by_place = std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&mine));
            if (by_line || by_place) && pid.cast_unsigned() != std::process::id() {
                if let Some(pid) = Pid::from_raw(pid) {
                    let _gone = kill_process(pid, Signal::KILL);
                }
                let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
                let ended = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
                    Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])),
                    Err(_) => true,
                };
                while !ended() && std::time::Instant::now() < end {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        }
    }

    fn mount(&mut self) -> Result<(), String> {
        run("mount", &["-o", "loop,errors=remount-ro", &shown(&self.file("image")), &shown(&self.place())])?;
        mounted().push(self.place());
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), String> {
        if !self.mounted {
            return Ok(());
        }
        // For the case that it is not over with this mount: see `detached`.
        if let Ok(place) = std::fs::File::open(self.place()) {
            let _cut_off = rustix::fs::syncfs(&place);
        }
        for _ in 0..200 {
            if run("umount", &[&shown(&self.place())]).is_ok() {
                mounted().retain(|at| *at != self.place());
                self.mounted = false;
                return self.detached();
            }
            // Whoever was killed may not have let go yet.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        run("umount", &[&shown(&self.place())])
    }

    /// No loop device has the image when this is over. Whoever makes a mount namespace meanwhile has a copy of each
    /// mount in it, and so may keep ours for as long as that lasts; the next mount would take up the same device again,
    /// with what was in it before. Then they keep that file, and we go on with a copy of it.
    fn detached(&self) -> Result<(), String> {
        let image = self.file("image");
        let end = std::time::Instant::now() + LET_GO;
        while attached(&image) {
            if std::time::Instant::now() > end {
                let copy = self.file("image.copy");
                run("cp", &["--sparse=always", &shown(&image), &shown(&copy)])?;
                return std::fs::rename(&copy, &image).map_err(|error| format!("{}: {error}", image.display()));
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Ok(())
    }
}

/// Whether a loop device has this file.
fn attached(image: &Path) -> bool {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut files = devices.filter_map(|one| std::fs::read_to_string(one.path().join("loop/backing_file")).ok());
    files.any(|file| Path::new(file.trim_end()) == image)
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.end_users();
        let mine: Vec<_> = mounted().iter().filter(|at| at.starts_with(self.dir.path())).cloned().collect();
        mine.iter().rev().for_each(|at| take_away(at));
    }
}

/// Takes every mount away: for a rig that is interrupted.
pub fn leave() {
    let all = mounted().clone();
    all.iter().rev().for_each(|at| take_away(at));
}

fn mounted() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    MOUNTED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_away(at: &Path) {
    if run("umount", &[&shown(at)]).is_err() {
        // Gone from here at once, and its loop device with its last user.
        drop(run("umount", &["-l", &shown(at)]));
    }
    mounted().retain(|mounted| mounted != at);
}

fn fill(place: &Path, left: u64) {
    let Ok(file) = std::fs::File::options().create(true).append(true).open(place.join("filler")) else { return };
    for _ in 0..10_000 {
        let Ok(space) = statvfs(place) else { return };
        let free = (space.f_bavail * space.f_frsize).saturating_sub(left);
        let at = file.metadata().map(|stat| stat.len()).unwrap_or(0);
        // What describes the blocks needs blocks too.
        let step = (free / 4096) * 4096;
        let tries = [step, step / 2 / 4096 * 4096, 4096];
        let more = tries.into_iter().filter(|len| *len > 0 && *len <= free);
        if !more.into_iter().any(|len| fallocate(&file, FallocateFlags::empty(), at, len).is_ok()) {
            return;
        }
    }
}

fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    // Others may look at what is inside of it, as at /opt.
    let builder = builder.prefix("maand-rig-").permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755));
    let made = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() };
    made.unwrap()
}

/// The system's own: a shim before it would cost more than all the rest.
fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
