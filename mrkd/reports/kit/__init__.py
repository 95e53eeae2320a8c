"""Parts that every page shares: layout, charts, images, readers of stored records."""
