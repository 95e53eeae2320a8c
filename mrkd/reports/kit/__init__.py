"""Parts that every page shares: layout, charts, pictures, readers of stored records."""
