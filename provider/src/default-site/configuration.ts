/** The public network of the default site: a documentation network (RFC 5737), inside the site's namespace only. */
export const PUBLIC_NETWORK = { name: "public", cidr: "198.51.100.0/24", gateway: "198.51.100.1" } as const;

/** The storage pool of the default site. */
export const POOL = { name: "virtual-cluster", path: "/var/lib/libvirt/images" } as const;

/**
 * libvirtd.conf of the default site. The socket needs no authentication: only the site's owner gets into its folder, and
 * opens it as a member of their group, which libvirtd sets by itself whenever it starts. The limits are far above the
 * defaults (5 requests a client), with which many calls at once wait for each other or hang.
 *
 * @param hostUuid the site's identity; where the machine has no DMI, libvirt would make up another one at every start
 * @param ownerGid the group of the site's owner
 */
export function libvirtdConf(hostUuid: string, ownerGid: number): string {
  return `# Written at every start of the site.
host_uuid = "${hostUuid}"
unix_sock_dir = "/run/libvirt"
unix_sock_group = "+${ownerGid}"
unix_sock_rw_perms = "0660"
unix_sock_ro_perms = "0600"
auth_unix_ro = "none"
auth_unix_rw = "none"
max_clients = 1000
max_queued_clients = 1000
max_anonymous_clients = 200
min_workers = 8
max_workers = 64
prio_workers = 16
max_client_requests = 256
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
`;
}

/**
 * qemu.conf of the default site. No virtlogd runs beside it, and AppArmor's profiles don't know its folders. QEMU runs
 * as the distribution's unprivileged user.
 */
export const QEMU_CONF = `# Written at every start of the site.
stdio_handler = "file"
security_driver = "none"
namespaces = []
`;

/**
 * Nobody leases addresses here and nothing leaves the namespace: a bridge with the gateway's address, without DHCP, DNS
 * or firewall rules.
 */
export const PUBLIC_NETWORK_XML = `<network>
  <name>${PUBLIC_NETWORK.name}</name>
  <forward mode='open'/>
  <bridge name='${PUBLIC_NETWORK.name}' stp='off' delay='0'/>
  <dns enable='no'/>
  <ip address='${PUBLIC_NETWORK.gateway}' netmask='255.255.255.0'/>
</network>
`;

export const POOL_XML = `<pool type='dir'>
  <name>${POOL.name}</name>
  <target><path>${POOL.path}</path></target>
</pool>
`;
