import type { Command } from "commander";
import { execa } from "execa";
import { scpPaths, sshTarget } from "../cluster-ssh";
import { NotSupported } from "../drivers/errors";
import { type Chosen, chosenCluster, refuseUnknownNode, withStackAndCluster } from "./stack";
import type { Fail } from "./terminal";

interface Options extends Chosen {
  readonly recursive?: true;
}

const EXAMPLES = `
A path on a node is written node:path, and begins in root's home there. What has a slash before its colon is a file here.

Examples:
  vc cp job.sh frontend:              # into root's home
  vc cp -r data compute-0:/scratch
  vc cp frontend:/etc/vc/machinefile .`;

export function addCp(program: Command, fail: Fail): void {
  withStackAndCluster(program.command("cp"))
    .summary("copy files to a node, or from one")
    .description("Copies files between this machine and a node of the stack's cluster.")
    .usage("[options] <from...> <to>")
    .argument("<from>", "a file here, or node:path; several may follow")
    .argument("<to...>", "node:path, or a file or folder here")
    .option("-r, --recursive", "folders too")
    .addHelpText("after", EXAMPLES)
    .action(async (from: string, to: readonly string[], { recursive, ...chosen }: Options) => {
      const places = [from, ...to].map(placeOf);
      const nodes = new Set(places.flatMap((place) => place.node ?? []));
      const [node] = nodes;
      const target = places.at(-1);
      if (node === undefined || nodes.size > 1 || places.slice(0, -1).some((source) => source.node === target?.node)) {
        throw new NotSupported(
          `copying ${from} to ${to.join(" ")}`,
          "it goes between this machine and one node",
          "Write node:path on one side, such as frontend:/root/file",
        );
      }
      const cluster = await chosenCluster(chosen);
      refuseUnknownNode(cluster, node);
      const ssh = sshTarget(cluster, node);
      const options = [...(recursive ? ["-r"] : []), ...ssh.options];
      const { exitCode } = await execa("scp", [...options, ...scpPaths(ssh, places)], {
        stdio: "inherit",
        reject: false,
      });
      if (exitCode !== 0) {
        fail();
      }
    });
}

function placeOf(word: string): { readonly node?: string; readonly path: string } {
  const [, node, path = ""] = /^([^/:]+):(.*)$/s.exec(word) ?? [];
  return node === undefined ? { path: word } : { node, path };
}
