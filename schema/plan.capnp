# The launch plan: what the supervisor sends to the zygote for one container start.
#
#     supervisor --- one SOCK_SEQPACKET message: a Plan, unpacked, + SCM_RIGHTS: the descriptors ---> zygote
#
# A plan holds no path of the host and no policy. Host objects are descriptors; a number of type FdIndex says which one
# of those that came with the message. What is left is a list of steps that the child does in order between clone3(2)
# and execve(2). brood_launcher::plan is the same in Rust types and says more about each step.
#
# Both ends are the same build, or two builds during an upgrade. A plan that is half understood would start a container
# with a protection missing, so there is no evolution in place: every change of this file raises planVersion, and a
# reader refuses each other version. Ordinals may therefore be renumbered.

@0xdd16de76561e868d;

const planVersion :UInt16 = 5;
# The only version that this file describes.

using FdIndex = UInt16;
# Position in the list of descriptors that accompanies the message. A position past the end is refused.

using CString = Data;
# Bytes for a system call: no particular encoding (paths have none), no NUL inside and none at the end.

struct Plan {
  # Everything that one clone, and the child made by it, must do.

  version @0 :UInt16;
  # planVersion of the writer.

  cloneFlags @1 :UInt64;
  # CLONE_NEW* bits for clone3(2); the cgroup and time namespaces are made by steps.

  idMaps :union {
    # Whether the child gets a user namespace of its own.
    none @2 :Void;
    newUserNamespace @3 :IdMaps;
  }

  userNamespace @8 :OptionalFd;
  # A user namespace to be born in: a process between the cloning one and the child joins it.

  born @4 :List(Namespace);
  # Namespaces to be born in: the cloning process joins them by setns(2) before the clone.

  oomScoreAdj :union {
    # For /proc/PID/oom_score_adj, written by the cloning process, which has the privilege that the child lost.
    keep @9 :Void;
    set @10 :Int32;
  }

  rlimits @11 :List(Rlimit);
  # Set by the cloning process for the same reason (prlimit(2)).

  netDevices @12 :List(NetDevice);
  # Moved by the cloning process into the child's network namespace.

  preserve @13 :List(FdIndex);
  # Descriptors that the program gets after standard error: the first as 3, and so on.

  cgroup @5 :OptionalFd;
  # A cgroup v2 directory to be born in (CLONE_INTO_CGROUP).

  status @6 :OptionalFd;
  # Write end of the status pipe; the child's reports go there.

  zygotesEmpty @14 :Bool;
  # Directories are masked by the zygote's empty one, /empty, and not by one of the container's own.

  steps @7 :List(Step);
  # In order. The last one, and no other, is exec.
}

struct OptionalFd {
  union {
    none @0 :Void;
    fd @1 :FdIndex;
  }
}

struct Namespace {
  # A namespace to join.

  kind @0 :NamespaceKind;
  fd @1 :FdIndex;
}

struct Rlimit {
  # setrlimit(2); all bits set is infinity.

  resource @0 :UInt32;
  # RLIMIT_* number.
  soft @1 :UInt64;
  hard @2 :UInt64;
}

struct NetDevice {
  # A network device of the host's (linux.netDevices).

  name @0 :CString;
  # In the network namespace of the cloning process.
  newName @1 :CString;
  # In the container's.
}

struct StateText {
  # The state of the container as JSON text (runtime-spec, "State"), cut where a pid belongs that is not known yet.

  parts @0 :List(Data);
  # The pid stands between each two.
}

struct IdMaps {
  # Identity mappings of a user namespace: lines "inside outside count", see user_namespaces(7).

  uidMap @0 :Data;
  # For /proc/PID/uid_map.

  gidMap @1 :Data;
  # For /proc/PID/gid_map.
}

enum TargetKind {
  # What a missing mount target is made as.

  directory @0;
  # mkdir(2), mode 0755.

  file @1;
  # An empty regular file, mode 0644.
}

struct Target {
  # Where a mount goes.

  path @0 :CString;
  # Absolute, as the container sees it; resolved inside its root.

  kind @1 :TargetKind;
  # For when nothing is there.

  noSymlinks @2 :Bool;
  # Refuse any symbolic link on the way (/proc and /sys: CVE-2019-19921, CVE-2023-27561).

  noFollow @3 :Bool;
  # A link in the last place is itself mounted over (option dest-nofollow).
}

struct HiddenPath {
  # A path that is masked or made read-only; a missing one is fine.

  path @0 :CString;
  # Absolute, inside the container.

  slot @1 :UInt16;
  # The mount of this plan below which it lies; 0 when there is none.

  below @2 :CString;
  # The rest of the path, below that mount.
}

struct MountAttrs {
  # For mount_setattr(2): MOUNT_ATTR_* bits and the propagation.

  set @0 :UInt64;
  # Bits set on the mount.

  clear @1 :UInt64;
  # Bits cleared on the mount.

  recursiveSet @2 :UInt64;
  # Bits set on the mount and all below (options rro, rnosuid, ...).

  recursiveClear @3 :UInt64;
  # Bits cleared on the mount and all below (rrw, rsuid, ...).

  propagation @4 :UInt64;
  # MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE; 0 leaves it as it is.

  propagationRecursive @5 :Bool;
  # The propagation applies to all mounts below as well (rshared, rslave, ...).

  idMap :union {
    # The identity maps that the mount is to have (MOUNT_ATTR_IDMAP).

    none @6 :Void;
    own :group {
      # Those of a user namespace, set by the child.
      namespace @7 :FdIndex;
      recursive @8 :Bool;
      # All mounts below as well (option ridmap).
    }
    asked @9 :UInt16;
    # Set by whoever launches, when the child asks: a number of theirs.
  }
}

struct FsParameter {
  # One fsconfig(2) call.

  key @0 :CString;
  # The parameter's name, e.g. "mode".

  union {
    flag @1 :Void;
    # FSCONFIG_SET_FLAG: the key alone, e.g. "sync".

    string @2 :CString;
    # FSCONFIG_SET_STRING: key and value, e.g. "0755".
  }
}

enum NamespaceKind {
  # The namespaces that can be joined; the user namespace is the plan's own field.

  network @0;
  # network_namespaces(7)

  ipc @1;
  # ipc_namespaces(7)

  uts @2;
  # uts_namespaces(7)

  cgroup @3;
  # cgroup_namespaces(7)

  pid @4;
  # pid_namespaces(7); only before the clone.

  mount @5;
  # mount_namespaces(7)

  time @6;
  # time_namespaces(7)
}

enum HookKind {
  # The hooks that run in the container's namespaces (runtime-spec, "POSIX-platform Hooks").

  createContainer @0;
  startContainer @1;
}

enum SecurityModule {
  # Who understands a label.

  appArmor @0;
  selinux @1;
}

struct CapabilitySets {
  # Sets of capabilities(7), one bit per capability number. The bounding set is a step of its own.

  effective @0 :UInt64;
  permitted @1 :UInt64;
  inheritable @2 :UInt64;
  ambient @3 :UInt64;
}

struct Step {
  # One thing that the child does. One arm per variant of brood_launcher::plan::Step, in its order and with its names.

  union {
    awaitParent @62 :Void;
    # Wait until the cloning process has done its half: identity maps, limits, network devices.

    joinCgroup @105 :FdIndex;
    # Enter a cgroup v1 directory: write "0" to this file, its "tasks".

    enterUserNamespace @0 :Void;
    # Become root of the user namespace.

    joinNamespace :group {
      # setns(2)
      kind @1 :NamespaceKind;
      fd @2 :FdIndex;
    }

    joinContainer :group {
      # setns(2) by the pidfd of a container's init process: all of these namespaces at once (an exec).
      pidfd @58 :FdIndex;
      namespaces @59 :UInt32;
      # CLONE_NEW* bits.
    }

    newSession @3 :Void;
    # setsid(2)

    newCgroupNamespace @4 :Void;
    # unshare(CLONE_NEWCGROUP), in the final cgroup: the namespace's root is the one that the caller is in.

    newTimeNamespace @5 :Data;
    # unshare(CLONE_NEWTIME). The text is for /proc/self/timens_offsets, lines "clock seconds nanoseconds"; may be empty.

    loopbackUp @6 :Void;
    # Bring "lo" up in the new network namespace.

    hostname @7 :CString;
    # sethostname(2)

    domainname @8 :CString;
    # setdomainname(2)

    privateMounts @9 :Void;
    # Make every mount of this namespace private.

    runtimeHooks @63 :Void;
    # Report that the namespaces are there, and wait until prestart and createRuntime hooks have run.

    hook :group {
      # Run a program of the host's in the container's namespaces, with the state as its input.
      kind @64 :HookKind;
      index @65 :UInt16;
      # Position in config.json's list.
      path @66 :CString;
      argv @67 :List(CString);
      env @68 :List(CString);
      timeout @69 :UInt32;
      # Seconds; 0 for none.
      state @70 :StateText;
    }

    sessionKeyring @71 :CString;
    # keyctl(2), KEYCTL_JOIN_SESSION_KEYRING: the keyring of this name, or with an empty one a new keyring.

    sysctl :group {
      # Write a file below /proc/sys.
      path @72 :CString;
      # Relative to /proc/sys.
      value @73 :Data;
    }

    limitProcesses :group {
      # Write "pids.max", when helpers of the start would not fit in.
      file @106 :FdIndex;
      limit @107 :CString;
      # In decimal.
    }

    scheduler :group {
      # sched_setattr(2)
      policy @74 :UInt32;
      flags @75 :UInt64;
      nice @76 :Int32;
      priority @77 :UInt32;
      runtime @78 :UInt64;
      deadline @79 :UInt64;
      period @80 :UInt64;
    }

    ioPriority @81 :UInt32;
    # ioprio_set(2): class and level in one number.

    cpuAffinity @82 :List(UInt64);
    # sched_setaffinity(2): the mask, lowest CPUs first.

    personality @83 :UInt32;
    # personality(2)

    memoryPolicy :group {
      # set_mempolicy(2)
      mode @84 :UInt32;
      # With its flags.
      nodes @85 :List(UInt64);
      # The mask, lowest nodes first.
    }

    label :group {
      # The label that execve gives the program (/proc/self/attr).
      module @86 :SecurityModule;
      text @87 :CString;
    }

    terminal :group {
      # A new pseudo-terminal of the container's, in place of stdio.
      socket @88 :FdIndex;
      # A connected unix socket: the master goes there.
      rows @89 :UInt16;
      columns @90 :UInt16;
      # 0 and 0 leave the size.
      uid @91 :UInt32;
      # Becomes its owner.
      console @92 :Bool;
      # Also bind it to /dev/console.
      keepLineEnds @98 :Bool;
      # Without ONLCR: what is carried to another terminal, or into a file, is not to be changed on the way.
    }

    moveRoot @93 :Void;
    # In place of pivotRoot: chroot(2) into the coming root, which covers the old one (a host on initramfs).

    coverRoot @109 :Void;
    # In place of pivotRoot, in a zygote's mount namespace: let go of what its root holds, and chroot(2) into the coming root.

    changeRoot @111 :Void;
    # In place of pivotRoot, in a mount namespace that is not the container's own: chroot(2) into the coming root.

    rootPropagation @94 :UInt64;
    # MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE, perhaps with MS_REC, on the container's root.

    makeWorkingDirectory @108 :CString;
    # mkdir(2), parents too, inside the root; what is there stays.

    attachRoot :group {
      # Attach a detached tree as the coming root directory.
      tree @10 :FdIndex;
      place @104 :CString;
      # Where: "/", or for hooks that look for it there, the root directory's path on the host.
    }

    adoptRoot @110 :FdIndex;
    # Take a directory, on what is mounted already, for the coming root.

    overlayRoot :group {
      # Make the coming root an overlay with an upper layer on a fresh tmpfs.
      lower @11 :FdIndex;
      # The lower layer, a detached tree.
      upperSize @12 :CString;
      # size= of the tmpfs; empty for the kernel's default.
    }

    mountFilesystem :group {
      # fsopen(2), fsconfig(2), fsmount(2), move_mount(2).
      index @13 :UInt16;
      # Position in config.json's mounts, for messages.
      target @14 :Target;
      fstype @15 :CString;
      # E.g. "tmpfs".
      source @16 :CString;
      # Shown as the source in mountinfo.
      parameters @17 :List(FsParameter);
      # In order.
      attrs @18 :MountAttrs;
      copyUp @95 :Bool;
      # Fill it with a copy of what the target holds (option tmpcopyup).
      slot @99 :UInt16;
      # As what the child remembers the mount, for hidden paths below it; 0 for not at all.
    }

    mountTree :group {
      # Attach a detached tree: a bind mount.
      index @19 :UInt16;
      # Position in config.json's mounts; 65535 for mounts of our own (devices).
      target @20 :Target;
      source :union {
        opened @21 :FdIndex;
        # From open_tree(2), before the clone.
        container :group {
          # A path of the container's, on what earlier steps have mounted there.
          path @100 :CString;
          # Absolute, inside the container.
          recursive @101 :Bool;
          # With all mounts below it (option rbind).
          noFollow @102 :Bool;
          # A link in the last place is meant itself (option src-nofollow).
        }
      }
      attrs @22 :MountAttrs;
      slot @103 :UInt16;
      # As with mountFilesystem.
    }

    remount :group {
      # mount_setattr(2) on what is mounted at the target already (option remount).
      index @23 :UInt16;
      # Position in config.json's mounts, for messages.
      target @24 :Target;
      attrs @25 :MountAttrs;
    }

    device :group {
      # mknod(2) inside the root, then owner and mode.
      path @26 :CString;
      # Absolute, inside the container.
      mode @27 :UInt32;
      # File type and permissions, e.g. S_IFCHR | 0666.
      major @28 :UInt32;
      minor @29 :UInt32;
      uid @30 :UInt32;
      gid @31 :UInt32;
    }

    symlink :group {
      # symlink(2) inside the root; an existing entry stays.
      path @32 :CString;
      # Where the link is, absolute.
      to @33 :CString;
      # What it says.
    }

    pivotRoot @34 :Void;
    # pivot_root(2) into the coming root and let go of the old one.

    readonlyRoot @35 :Void;
    # Make the root mount read-only (root.readonly).

    readonlyPath @36 :HiddenPath;
    # Bind the path upon itself, read-only (linux.readonlyPaths).

    maskPath @37 :HiddenPath;
    # Hide a path (linux.maskedPaths).

    umask @38 :UInt32;
    # umask(2)

    oomScoreAdj @39 :Int32;
    # For /proc/self/oom_score_adj.

    rlimit @40 :Rlimit;
    # setrlimit(2)

    stdio :group {
      # Put the descriptors at 0, 1 and 2.
      stdin @41 :FdIndex;
      stdout @42 :FdIndex;
      stderr @43 :FdIndex;
      uid @44 :UInt32;
      # Becomes the owner of the pipes and files among them; in the container's numbering.
    }

    workingDirectory @45 :CString;
    # chdir(2), and proof that the result lies inside the root (CVE-2024-21626).

    boundingSet @46 :UInt64;
    # The capabilities that stay in the bounding set, one bit each.

    identity :group {
      # setgroups(2), setresgid(2), setresuid(2), capabilities kept across.
      uid @47 :UInt32;
      gid @48 :UInt32;
      groups @49 :List(UInt32);
      # Supplementary groups.
      setGroups @50 :Bool;
      # False where the user namespace denies setgroups(2).
    }

    capabilities @51 :CapabilitySets;
    # capset(2) and the ambient set.

    noNewPrivileges @52 :Void;
    # PR_SET_NO_NEW_PRIVS

    dieWithParent @53 :UInt32;
    # PR_SET_PDEATHSIG: the signal's number.

    findExecutable @54 :List(CString);
    # Paths to try in order; the first that may be executed is the program.

    park @55 :FdIndex;
    # Report "ready" and wait at this listening SOCK_SEQPACKET socket until somebody connects (start).

    seccomp :group {
      # seccomp(2), SECCOMP_SET_MODE_FILTER.
      program @60 :Data;
      # struct sock_filter after struct sock_filter, in the machine's byte order.
      flags @61 :UInt32;
      # SECCOMP_FILTER_FLAG_*
      listener @96 :OptionalFd;
      # A connected unix socket: the listener goes there with the state.
      state @97 :StateText;
    }

    exec :group {
      # Close all else and execve(2) what findExecutable found.
      argv @56 :List(CString);
      # At least one.
      env @57 :List(CString);
      # Each "KEY=value".
    }
  }
}
