//! SYN cookies as the host's own TCP settings allow them.
//!
//! Comes in: `/proc/sys/net/ipv4`, the interfaces' MTU. Goes out: what the program's answers may say, and the one
//! setting that has to change with them: the kernel gives the program a cookie for every SYN only where
//! `net.ipv4.tcp_syncookies` is 2; where it is 1, only once the listener's queue is full. Answers must say what the
//! kernel will go by afterwards; it gets to know of the client's options by the timestamp alone, and can read that only
//! where timestamps have no random offset (`net.ipv4.tcp_timestamps` is 2). Source: `net/ipv4/syncookies.c`,
//! `tcp_select_initial_window()`. When to turn them on is not decided here.

use std::{fs, io, path::Path};

use gateway_ebpf::layout::{CookieTerms, TERMS_SACK, TERMS_SCALING, TERMS_TIMESTAMPS};

/// Who answers SYNs while cookies are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SynAnswers {
    /// Nobody has to: cookies are off.
    Off,
    /// The program, all of them.
    Filter,
    /// The program, once a listener's queue is full: `net.ipv4.tcp_syncookies` could not be set to 2.
    FilterWhenFull,
    /// The kernel as it would without the program.
    Kernel,
}

impl SynAnswers {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Off, Self::Filter, Self::FilterWhenFull, Self::Kernel];

    /// Its stable name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Filter => "filter",
            Self::FilterWhenFull => "filter_when_full",
            Self::Kernel => "kernel",
        }
    }
}

const SYSCTLS: &str = "/proc/sys/net";
const SYNCOOKIES: &str = "ipv4/tcp_syncookies";

/// What the host's TCP is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tcp {
    /// 0 off, 1 when a queue is full, 2 always.
    pub(super) syncookies: u32,
    /// 0 off, 1 with random offsets, 2 without.
    timestamps: u32,
    sack: bool,
    window_scaling: bool,
    receive_default_bytes: u64,
    receive_max_bytes: u64,
}

impl Tcp {
    /// As this thread's network namespace has it.
    pub(super) fn read() -> io::Result<Self> {
        let numbers = |name: &str| -> io::Result<Vec<u64>> {
            let text = fs::read_to_string(Path::new(SYSCTLS).join(name))?;
            Ok(text.split_whitespace().filter_map(|number| number.parse().ok()).collect())
        };
        let number = |name: &str| Ok::<_, io::Error>(numbers(name)?.first().copied().unwrap_or(0));
        let small = |name: &str| Ok::<_, io::Error>(u32::try_from(number(name)?).unwrap_or(u32::MAX));
        let receive = numbers("ipv4/tcp_rmem")?;
        // Some kernels show this one in the first namespace only, and the other is larger by default.
        let socket_max_bytes = number("core/rmem_max").unwrap_or(0);
        Ok(Self {
            syncookies: small(SYNCOOKIES)?,
            timestamps: small("ipv4/tcp_timestamps")?,
            sack: number("ipv4/tcp_sack")? != 0,
            window_scaling: number("ipv4/tcp_window_scaling")? != 0,
            receive_default_bytes: receive.get(1).copied().unwrap_or(0),
            receive_max_bytes: receive.get(2).copied().unwrap_or(0).max(socket_max_bytes),
        })
    }

    /// Whether answers can grant more than a segment size.
    pub(super) fn remembers_options(&self) -> bool {
        self.timestamps == 2
    }

    /// What answers say, over interfaces of which the smallest has this MTU.
    pub(super) fn terms(&self, mtu_bytes: u32) -> CookieTerms {
        /// RFC 9293 §3.7.1: less need not be said.
        const MSS_MIN_V4: u32 = 536;
        /// RFC 8200 §5, without both headers.
        const MSS_MIN_V6: u32 = 1280 - 60;
        /// More than a first flight, and less than any kernel opens with.
        const WINDOW_MAX: u64 = 32_768;
        let mss = |headers: u32, least: u32| {
            u16::try_from(mtu_bytes.saturating_sub(headers).max(least)).unwrap_or(u16::MAX)
        };
        let mut options = 0;
        if self.remembers_options() {
            options |= TERMS_TIMESTAMPS;
        }
        if self.sack {
            options |= TERMS_SACK;
        }
        if self.window_scaling {
            options |= TERMS_SCALING;
        }
        // Half of the memory is for the kernel's own overhead.
        let space = self.receive_max_bytes.max(self.receive_default_bytes / 2).max(1);
        CookieTerms {
            mss_v4: mss(40, MSS_MIN_V4),
            mss_v6: mss(60, MSS_MIN_V6),
            window: u16::try_from((self.receive_default_bytes / 4).min(WINDOW_MAX)).unwrap_or(u16::MAX),
            window_scale: u8::try_from(space.ilog2().saturating_sub(15).min(14)).unwrap_or(14),
            options,
        }
    }
}

/// Sets `net.ipv4.tcp_syncookies` of this thread's network namespace.
pub(super) fn set_syncookies(value: u32) -> io::Result<()> {
    fs::write(Path::new(SYSCTLS).join(SYNCOOKIES), value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Tcp = Tcp {
        syncookies: 1,
        timestamps: 2,
        sack: true,
        window_scaling: true,
        receive_default_bytes: 131_072,
        receive_max_bytes: 6_291_456,
    };

    #[test]
    fn answers_say_what_the_kernel_will_go_by() {
        let all = TERMS_TIMESTAMPS | TERMS_SACK | TERMS_SCALING;
        let terms = CookieTerms { mss_v4: 1460, mss_v6: 1440, window: 32_768, window_scale: 7, options: all };
        assert_eq!(TCP.terms(1500), terms);
        let scale = |receive_max_bytes| Tcp { receive_max_bytes, ..TCP }.terms(1500).window_scale;
        assert_eq!(
            [0, 65_535, 65_536, 131_071, 131_072, 33_554_432, u64::MAX].map(scale),
            [1, 1, 1, 1, 2, 10, 14]
        );
        let small = Tcp { receive_default_bytes: 4096, receive_max_bytes: 0, ..TCP }.terms(1500);
        assert_eq!((small.window, small.window_scale), (1024, 0));
    }

    #[test]
    fn what_the_host_has_switched_off_is_not_granted() {
        assert_eq!(Tcp { timestamps: 1, ..TCP }.terms(1500).options, TERMS_SACK | TERMS_SCALING);
        assert_eq!(Tcp { sack: false, ..TCP }.terms(1500).options, TERMS_TIMESTAMPS | TERMS_SCALING);
        assert_eq!(Tcp { window_scaling: false, ..TCP }.terms(1500).options, TERMS_TIMESTAMPS | TERMS_SACK);
    }

    #[test]
    fn segments_fit_the_smallest_interface() {
        let mss = |mtu_bytes| (TCP.terms(mtu_bytes).mss_v4, TCP.terms(mtu_bytes).mss_v6);
        assert_eq!(mss(9000), (8960, 8940));
        assert_eq!(mss(1280), (1240, 1220));
        assert_eq!(mss(68), (536, 1220));
        assert_eq!(mss(u32::MAX), (u16::MAX, u16::MAX));
    }

    #[test]
    fn this_host_can_be_read() {
        assert!(Tcp::read().unwrap().receive_default_bytes > 0);
    }
}
