//! The handler of the signals that native code dies of. All unsafe code is here.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::running::{LABEL, suspects};

/// The signals, each of two digits or fewer, and their names.
pub const NAMES: [(i32, &str); 5] = [
    (libc::SIGILL, "SIGILL"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGSEGV, "SIGSEGV"),
];

/// Where to write.
static RECORD: AtomicI32 = AtomicI32::new(-1);

/// Writes down what runs when this process dies of one of the signals. `record` stays open.
pub fn install(record: RawFd) -> io::Result<()> {
    RECORD.store(record, Ordering::Relaxed);
    for (signal, _) in NAMES {
        // SAFETY: a zeroed sigaction is a valid one; the handler does what a handler may, and nothing else.
        let installed = unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = crashed as *const () as libc::sighandler_t;
            // On a stack of its own where the thread has one: a stack that is full is a crash, too.
            action.sa_flags = libc::SA_ONSTACK | libc::SA_RESETHAND;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(signal, &raw const action, null_mut())
        };
        if installed != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The last decimal digit of a number.
fn digit(number: libc::c_int) -> u8 {
    b"0123456789"[number.unsigned_abs() as usize % 10]
}

/// Writes a line for each suspect, then dies of the same signal as if nobody had looked.
extern "C" fn crashed(signal: libc::c_int) {
    let record = RECORD.load(Ordering::Relaxed);
    suspects(|label| {
        let mut line = [b' '; LABEL + 4];
        line[..LABEL].copy_from_slice(label);
        // Two digits, the first perhaps zero.
        line[LABEL + 1] = digit(signal / 10);
        line[LABEL + 2] = digit(signal);
        line[LABEL + 3] = b'\n';
        // SAFETY: write is safe in a handler; the line lives on this stack.
        unsafe { libc::write(record, line.as_ptr().cast(), line.len()) };
    });
    // The default action is back in force, and comes when this handler returns.
    // SAFETY: raise is safe in a handler.
    unsafe { libc::raise(signal) };
}
