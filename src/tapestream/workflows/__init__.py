"""What one does with whole backups."""
