import { chmod, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { execa } from "execa";
import { writeSudo } from "../stand-ins/rocks/sudo";

/** Who may do there what docs/sites/rocks.md says, and nothing more. */
export const ACCOUNT = { name: "vc-account", uid: 4242 } as const;

/** Its own mounts; log-ins go through a real sshd on loopback. */
const HOST_SCRIPT = `
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=700 tmpfs /root
mkdir -p /run/sshd
cp "$1/host_key" "$1/authorized_keys" /run/sshd/
chmod 600 /run/sshd/host_key
chmod 644 /run/sshd/authorized_keys
# root may log in with a key, whatever this machine says of its password.
echo 'root:*:19000:0:99999:7:::' >/run/shadow
echo '${ACCOUNT.name}:*:19000:0:99999:7:::' >>/run/shadow
mount --bind /run/shadow /etc/shadow
{ cat /etc/passwd; echo '${ACCOUNT.name}:x:${ACCOUNT.uid}:${ACCOUNT.uid}::/run:/bin/bash'; } >/run/passwd
mount --bind /run/passwd /etc/passwd
exec /usr/sbin/sshd -D -f "$1/sshd_config" -E "$1/sshd.log"
`;

/** On the Rocks frontend: each container has the folder of disks in its own place. */
const CONTAINER_SSH = (root: string, folder: string) => `#!/bin/bash
while [ $# -gt 2 ]; do shift; done
mkdir -p "${root}/$1" "${folder}"
exec unshare --mount bash -c 'mount --bind "$1" "$2" && exec bash -c "$3"' bash "${root}/$1" "${folder}" "$2"
`;

/** A Rocks frontend that is reached over ssh only, and from which its containers are. Needs root. */
export class RemoteFrontend implements AsyncDisposable {
  private constructor(
    /** A folder with the programs that this side needs to reach it. */
    readonly path: string,
    /** Where this side finds the containers' folders. */
    readonly containers: string,
    /** Whether accounts can have access lists. */
    readonly hasAccessLists: boolean,
    private readonly log: string,
    private readonly stop: () => Promise<unknown>,
  ) {}

  /**
   * Its name is `rocks-frontend` to root and `<name>-at-rocks-frontend` to the account.
   * @param folder of the site's disks, the same path everywhere
   * @param rocks the one program that the account may run by sudo
   */
  static async start(home: string, folder: string, rocks: string): Promise<RemoteFrontend> {
    const [etc, path, there, containers] = ["etc", "path", "there", "containers"].map((name) => join(home, name)) as [
      ...[string, string, string, string],
    ];
    await Promise.all([etc, path, there, containers].map((one) => mkdir(one, { recursive: true })));
    for (const key of ["host_key", "user_key"]) {
      await execa("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", join(etc, key)]);
    }
    await writeFile(join(etc, "authorized_keys"), await readFile(join(etc, "user_key.pub")));
    const hostKey = await readFile(join(etc, "host_key.pub"), "utf8");
    await writeFile(join(etc, "known_hosts"), `rocks-frontend ${hostKey}`);
    const port = await freePort();
    await writeFile(
      join(etc, "sshd_config"),
      `Port ${port}
ListenAddress 127.0.0.1
HostKey /run/sshd/host_key
AuthorizedKeysFile /run/sshd/authorized_keys
StrictModes no
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv PATH=${there}:/usr/sbin:/usr/bin:/sbin:/bin
`,
    );
    await writeFile(join(there, "ssh"), CONTAINER_SSH(containers, folder));
    await writeSudo(join(there, "sudo"), rocks);
    const { stdout: setfacl } = await execa("which", ["setfacl"], { reject: false });
    if (setfacl !== "") {
      await symlink(setfacl, join(there, "setfacl"));
    }
    // What the account runs lies below this.
    await chmod(home, 0o711);
    const options = [
      ...["HostName=127.0.0.1", `Port=${port}`, "HostKeyAlias=rocks-frontend", "IdentitiesOnly=yes"],
      ...[`IdentityFile=${join(etc, "user_key")}`, `UserKnownHostsFile=${join(etc, "known_hosts")}`],
    ];
    const { stdout: ssh } = await execa("which", ["ssh"]);
    await writeFile(
      join(path, "ssh"),
      `#!/bin/sh
case " $* " in
  *" rocks-frontend "*) user=root ;;
  *" ${ACCOUNT.name}-at-rocks-frontend "*) user=${ACCOUNT.name} ;;
  *) exec ${ssh} "$@" ;;
esac
exec ${ssh} -o User=$user ${options.map((one) => `-o ${one}`).join(" ")} "$@"
`,
    );
    await Promise.all([join(there, "ssh"), join(path, "ssh")].map((file) => chmod(file, 0o755)));
    const sshd = execa("unshare", ["--mount", "bash", "-c", HOST_SCRIPT, "bash", etc], { reject: false });
    for (let tries = 0; ; tries++) {
      const { exitCode, stderr } = await execa(join(path, "ssh"), ["-o", "BatchMode=yes", "rocks-frontend", "true"], {
        reject: false,
      });
      if (exitCode === 0) {
        break;
      }
      if (tries > 50) {
        sshd.kill();
        throw new Error(`the Rocks frontend doesn't let us in: ${stderr}`);
      }
      await setTimeout(200);
    }
    const stop = () => {
      sshd.kill();
      return sshd;
    };
    return new RemoteFrontend(path, containers, setfacl !== "", join(etc, "sshd.log"), stop);
  }

  /** How often somebody has logged in, not counting what shares a connection. */
  async logIns(): Promise<number> {
    return (await readFile(this.log, "utf8")).match(/Accepted publickey/g)?.length ?? 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
