#!/bin/busybox sh
# The first process of the virtual machine: runs every command of /commands, one a line, and powers off. Lines that
# begin with `@@` are for whoever started the machine; without the last one, it did not come to its end.
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mkdir /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -t tracefs tracefs /sys/kernel/tracing
mount -t securityfs securityfs /sys/kernel/security
ip link set lo up
export LEAKTRACE_E2E=here LEAKTRACE_BIN=/tests/leaktrace LEAKTRACE_PROGRAMS=/tests
printf '\n@@ release %s\n' "$(uname -r)"
while read -r command; do
    sh -c "$command" < /dev/null 2>&1
    printf '\n@@ ended %s %s\n' "$?" "$command"
done < /commands
dmesg | grep -E 'WARNING:|BUG:|Oops|general protection|rcu.*stall' | sed 's/^/@@ complaint /'
printf '\n@@ end\n'
poweroff -f
