"""Numbers of the system calls that the filter knows: on x86_64, on aarch64 (- if it has none)."""

from __future__ import annotations

from r1jax.rewards.code.inside import linux

# Never allowed: other networks, other namespaces, other processes' memory, what outlives a process,
# memory that no limit counts, ways around this filter.
FORBIDDEN = """
accept 43 202
accept4 288 242
acct 163 89
add_key 248 217
bind 49 200
bpf 321 280
chroot 161 51
connect 42 203
fsconfig 431 431
fsmount 432 432
fsopen 430 430
fspick 433 433
io_uring_enter 426 426
io_uring_register 427 427
io_uring_setup 425 425
ioprio_set 251 30
kcmp 312 272
keyctl 250 219
listen 50 201
memfd_create 319 279
memfd_secret 447 447
migrate_pages 256 238
mount 165 40
mount_setattr 442 442
move_mount 429 429
move_pages 279 239
mq_open 240 180
msgget 68 186
name_to_handle_at 303 264
open_by_handle_at 304 265
open_tree 428 428
perf_event_open 298 241
personality 135 92
pidfd_getfd 438 438
pidfd_send_signal 424 424
pivot_root 155 41
process_madvise 440 440
process_mrelease 448 448
process_vm_readv 310 270
process_vm_writev 311 271
ptrace 101 117
request_key 249 218
rt_sigqueueinfo 129 138
rt_tgsigqueueinfo 297 240
sched_setaffinity 203 122
sched_setattr 314 274
sched_setparam 142 118
sched_setscheduler 144 119
semget 64 190
sendmmsg 307 269
sendmsg 46 211
setns 308 268
setpriority 141 140
shmget 29 194
tkill 200 130
umount2 166 39
unshare 272 97
userfaultfd 323 282
"""

# Change a file by its path. Landlock does not watch these, so without a mount namespace the program
# could do them to any file of its user.
ON_PATHS = """
chmod 90 -
chown 92 -
fchmodat 268 53
fchmodat2 452 452
fchownat 260 54
file_setattr 469 469
futimesat 261 -
lchown 94 -
lremovexattr 198 15
lsetxattr 189 6
removexattr 197 14
removexattrat 466 466
setxattr 188 5
setxattrat 463 463
truncate 76 45
utime 132 -
utimensat 280 88
utimes 235 -
"""

# Allowed with some arguments only.
CONDITIONAL = """
clone 56 220
clone3 435 435
fcntl 72 25
ioctl 16 29
kill 62 129
prlimit64 302 261
sendto 44 206
socket 41 198
tgkill 234 131
"""


def numbers(table: str) -> dict[str, int]:
    """The calls of a table that this machine has."""
    rows = [line.split() for line in table.strip().splitlines()]
    column = 1 if linux.MACHINE == "x86_64" else 2
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}
