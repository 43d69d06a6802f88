"""Make what MLflow's server expects to be there: its database, and the bucket of its files.

    python deployments/containers/prepare.py      reads the same environment variables as the server

Asked again, it changes nothing. Works with any PostgreSQL and any S3-compatible store.
"""

import os
import sys
from urllib.parse import unquote, urlsplit

import boto3
import psycopg2
from botocore.exceptions import ClientError
from psycopg2 import sql


def database(uri: str) -> None:
    """Make the database of a URI on its server, which has a database `postgres`."""
    parts = urlsplit(uri)
    name = parts.path.lstrip("/")
    connection = psycopg2.connect(
        host=parts.hostname,
        port=parts.port or 5432,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        dbname="postgres",
    )
    try:
        connection.autocommit = True  # CREATE DATABASE does not go into a transaction
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
                print(f"made the database {name}")
    finally:
        connection.close()


def bucket(destination: str, endpoint: str | None) -> None:
    """Make the bucket of an address s3://bucket/path."""
    name = urlsplit(destination).netloc
    client = boto3.client("s3", endpoint_url=endpoint)
    try:
        client.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        client.create_bucket(Bucket=name)
        print(f"made the bucket {name}")


def main() -> int:
    """Make both. Returns the exit code."""
    database(os.environ["MLFLOW_BACKEND_STORE_URI"])
    bucket(os.environ["MLFLOW_ARTIFACTS_DESTINATION"], os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
