#!/bin/sh
# Makes what compose.yaml needs, once: passwords, a bucket, a repository and its keys; then starts everything. As root (keys change owners), with
# docker, its compose plugin and openssl. BACKUPCTL_PASSPHRASE_FILE names a file with the passphrase of read, root and recovery key.
set -eu
umask 077
passphrase=$(realpath "${BACKUPCTL_PASSPHRASE_FILE:?name a file that holds a long passphrase for read.key, root.key and recovery.key}")
cd "$(dirname "$0")"
secrets=compose-secrets
image=backupd:0.1

mkdir -p "$secrets"
[ -e "$secrets/postgres-password" ] || openssl rand -hex 24 > "$secrets/postgres-password"
[ -e "$secrets/page-token" ] || openssl rand -hex 32 > "$secrets/page-token"
if [ ! -e "$secrets/s3.env" ]; then
  access=$(openssl rand -hex 10) secret=$(openssl rand -hex 20)
  printf 'ROOT_ACCESS_KEY=%s\nROOT_SECRET_KEY=%s\n' "$access" "$secret" > "$secrets/s3.env"
  # in earnest a user of its own with the rights of deploy/iam/writer.json
  printf 'AWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\n' "$access" "$secret" > "$secrets/s3-client.env"
fi
cp "$secrets/postgres-password" "$secrets/crm-password"
# the users who read them inside: 999 is the postgres image's, 10001 ours
chown 999:999 "$secrets/postgres-password"
chown 10001:10001 "$secrets/crm-password" "$secrets/page-token"

docker build --file Dockerfile --tag "$image" ..
docker compose up --detach --wait s3

in_network() {  # a program of the image beside the S3 server, with nothing of the daemon's
  docker run --rm --read-only --tmpfs /tmp --tmpfs /var/cache/backupd:uid=10001,gid=10001 --cap-drop ALL --security-opt no-new-privileges \
    --network "container:$(docker compose ps --quiet s3)" --env-file "$secrets/s3-client.env" "$@"
}

if [ ! -e "$secrets/keys/write.key" ]; then
  in_network "$image" python -c '
import boto3
s3 = boto3.client("s3", endpoint_url="http://127.0.0.1:7070", region_name="us-east-1")
s3.create_bucket(Bucket="backups")
s3.put_bucket_versioning(Bucket="backups", VersioningConfiguration={"Status": "Enabled"})
'
  # init writes all six keys into made/, from a container that ends; the daemon's own never sees that folder
  install -d -o 10001 -g 10001 "$secrets/made"
  install -o 10001 -g 10001 -m 0400 "$passphrase" "$secrets/made/passphrase"
  in_network --volume "$PWD/$secrets/made:/made" --env BACKUPCTL_PASSPHRASE_FILE=/made/passphrase "$image" \
    backupctl init "s3://backups/crm?endpoint=http://127.0.0.1:7070&region=us-east-1" --keys /made/keys
  rm "$secrets/made/passphrase"
  mkdir -p "$secrets/keys" "$secrets/offline"
  mv "$secrets/made/keys/write.key" "$secrets/made/keys/check.key" "$secrets/keys/"
  mv "$secrets"/made/keys/*.key "$secrets/offline/"
  rm -r "$secrets/made"
  chown -R 0:0 "$secrets/offline"
  echo "Take $secrets/offline/ away from this machine now: recovery.key and read.key open everything, prune.key deletes, root.key changes who may." >&2
fi

docker compose up --detach --wait
echo "status page: http://127.0.0.1:8733/ (any user name, the token in $secrets/page-token is the password)"
