//! A log on a disk that is full, for real: lines that have no room are counted, and the chain goes on when there is some.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use xtask::lab::{
    self,
    gateway::{Gateway, Start},
    place::Place,
    scratch::{Scratch, SmallDisk},
    wait,
};

use super::{Watched, await_lines, lines_of, said, settled, verify};
use crate::support::{BINARY, Edge, TIME_MAX};

/// A disk, or the word that `test` cannot run here.
fn small_disk(test: &str) -> Option<SmallDisk> {
    match lab::privileges() {
        Ok(()) => Some(SmallDisk::new().unwrap()),
        Err(why) => {
            lab::skip(test, &why);
            None
        }
    }
}

/// A gateway with its log on this disk.
fn watched_on(disk: &SmallDisk, on_failure: &str) -> Watched {
    let keys = format!(", on_failure = \"{on_failure}\"");
    Watched::start_in(Scratch::new().unwrap(), disk.path().join("audit.jsonl"), &keys)
}

impl Watched {
    /// Lines that the gateway says it has lost.
    fn lost(&self) -> u64 {
        let lost = self.edge.gateway.metrics().unwrap().sum("portcullis_audit_lost_total", &[]);
        lost.to_string().parse().unwrap()
    }

    fn refused(&self) -> u64 {
        lines_of(&self.file).iter().filter(|line| line["event"] == "refused").count() as u64
    }

    /// Fills the disk, and has requests refused one after the other until the first of them is lost: from then on the
    /// file's last page has no room for such a line. How many were told before.
    #[track_caller]
    fn refuse_until_lost(&self, disk: &SmallDisk) -> u64 {
        disk.fill().unwrap();
        let lost_before = self.lost();
        loop {
            let told_before = self.refused();
            assert_eq!(
                self.edge.get("/nowhere", &[]).status,
                404,
                "it is served, whatever becomes of its line"
            );
            let is_lost = wait::until(TIME_MAX, || {
                let (told, lost) = (self.refused() > told_before, self.lost() > lost_before);
                (told || lost).then_some(lost)
            });
            if is_lost.expect("a line that is written or counted") {
                return told_before;
            }
        }
    }

    #[track_caller]
    fn await_lost(&self, lines: u64) {
        let counted = wait::until(TIME_MAX, || (self.lost() == lines).then_some(()));
        assert!(counted.is_some(), "{} instead of {lines} are lost", self.lost());
    }
}

/// Fault row 15.
#[test]
fn what_has_no_room_is_counted_and_refuses_changes_if_it_is_to() {
    let test = "audit::full_disk::what_has_no_room_is_counted_and_refuses_changes_if_it_is_to";
    for (on_failure, refuses) in [("refuse", true), ("continue", false)] {
        let Some(disk) = small_disk(test) else { return };
        let mut watched = watched_on(&disk, on_failure);
        let told = watched.refuse_until_lost(&disk);
        assert!(settled(&watched.file).ends_with("}\n"), "nothing stays of a line that had no room");
        assert_eq!(watched.edge.get("/orders/1", &[("x-api-key", watched.key.as_str())]).status, 200);

        watched.hang_up();
        watched.await_output(if refuses { "not reloaded" } else { "configuration reloaded" });
        // The refusal, the change, and that it was refused.
        let lost = if refuses { 3 } else { 2 };
        watched.await_lost(lost);
        let create = ["keys", "create", "--consumer", "late", "--role", "reader"];
        let created = watched.edge.gateway.command(&create).unwrap();
        let expected = if refuses { "nothing changed" } else { "is not in the audit log" };
        assert_eq!(created.status.success(), !refuses, "{}", said(&created));
        assert!(said(&created).contains(expected), "{}", said(&created));
        let keys = said(&watched.edge.gateway.command(&["keys", "list"]).unwrap());
        assert_eq!(keys.contains("late"), !refuses, "{keys}");

        disk.make_room().unwrap();
        assert_eq!(watched.lines("lost", 1)[0]["lines"], lost);
        watched.hang_up();
        watched.lines("configured", 1);
        watched.await_output("configuration reloaded");
        assert_eq!((watched.refused(), watched.lost()), (told, lost));
        let created = watched.edge.gateway.command(&create).unwrap();
        assert!(created.status.success(), "{}", said(&created));
        assert_eq!(watched.lines("command", 1).len(), 1);
        let verified = verify(&[], &[&watched.file]);
        let expected = format!("{lost} lines are not here");
        assert!(verified.status.success() && said(&verified).contains(&expected), "{}", said(&verified));
    }
}

fn ends_with_its_page(file: &Path) -> bool {
    fs::metadata(file).unwrap().len().is_multiple_of(SmallDisk::PAGE_BYTES as u64)
}

/// Writes the beginning of a line, as far as there is room, as somebody leaves it who is killed then.
#[track_caller]
fn tear(file: &Path) -> u64 {
    let line = format!("{{\"seq\":99,\"prev\":\"{}", "a".repeat(SmallDisk::PAGE_BYTES));
    let mut file = File::options().append(true).open(file).unwrap();
    let written = file.write(line.as_bytes()).unwrap();
    assert!(0 < written && written < line.len(), "{written}");
    written as u64
}

#[test]
fn half_a_line_on_a_full_disk_stops_neither_the_next_start_nor_the_chain() {
    let test = "audit::full_disk::half_a_line_on_a_full_disk_stops_neither_the_next_start_nor_the_chain";
    for (on_failure, refuses) in [("refuse", true), ("continue", false)] {
        let Some(disk) = small_disk(test) else { return };
        let watched = watched_on(&disk, on_failure);
        watched.refuse_until_lost(&disk);
        // Where a page ends with a line there is no room for half of one; the next page will end elsewhere.
        if ends_with_its_page(&watched.file) {
            disk.make_room().unwrap();
            watched.refuse_until_lost(&disk);
        }
        assert!(!ends_with_its_page(&watched.file));
        let Watched { edge: Edge { gateway, address, admin, directory }, file, .. } = watched;
        let config = fs::read_to_string(gateway.config_file()).unwrap();
        gateway.kill().unwrap();
        let torn_bytes = tear(&file);
        let torn = settled(&file);
        let verified = verify(&[], &[&file]);
        assert!(
            !verified.status.success() && said(&verified).contains("is not whole"),
            "{}",
            said(&verified)
        );

        let start = || {
            Gateway::start(&Start {
                binary: Path::new(BINARY),
                place: Place::here(),
                directory: directory.path(),
                config: &config,
                listener: address,
                admin: Some(admin),
            })
        };
        let full = start();
        let gateway = if refuses {
            let error = format!("{:#}", full.expect_err("there is no room for its first line"));
            assert!(error.contains("log.audit: ") && error.contains("No space left"), "{error}");
            assert_eq!(settled(&file), torn, "nobody can tell what became of it");
            disk.make_room().unwrap();
            start().unwrap()
        } else {
            let gateway = full.unwrap();
            assert_eq!(settled(&file), torn, "nobody can tell what became of it");
            disk.make_room().unwrap();
            assert!(await_lines(&file, "lost", 1)[0]["lines"].as_u64() >= Some(1));
            gateway
        };
        assert_eq!(await_lines(&file, "mended", 1)[0]["bytes"], torn_bytes);
        assert!(gateway.terminate(TIME_MAX).unwrap().success());
        await_lines(&file, "stopped", 1);
        let verified = verify(&[], &[&file]);
        assert!(verified.status.success(), "{}", said(&verified));
    }
}

#[test]
fn a_log_that_has_no_room_to_begin_begins_when_there_is() {
    let test = "audit::full_disk::a_log_that_has_no_room_to_begin_begins_when_there_is";
    let Some(disk) = small_disk(test) else { return };
    disk.fill().unwrap();
    let watched = watched_on(&disk, "continue");
    assert_eq!(watched.edge.get("/nowhere", &[]).status, 404);
    watched.await_lost(2);
    disk.make_room().unwrap();
    assert_eq!(watched.lines("lost", 1)[0]["lines"], 2);
    let key = fs::metadata(disk.path().join("audit.key")).unwrap();
    assert!(key.len() > 0, "it was made when there was room");
    let verified = verify(&[], &[&watched.file]);
    assert!(verified.status.success(), "{}", said(&verified));
}
